package interop;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.ForwardingClientCallListener.SimpleForwardingClientCallListener;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** Tells when the headers of a call have come: with them a subscription says that it misses nothing from then on. */
final class AwaitedHeaders implements ClientInterceptor {
    private final CountDownLatch come = new CountDownLatch(1);

    void await(long seconds) throws InterruptedException {
        if (!come.await(seconds, TimeUnit.SECONDS)) {
            throw new IllegalStateException("no headers within " + seconds + " s");
        }
    }

    @Override
    public <Q, R> ClientCall<Q, R> interceptCall(MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
        return new SimpleForwardingClientCall<>(next.newCall(method, options)) {
            @Override
            public void start(Listener<R> listener, Metadata sent) {
                super.start(new Listening<>(listener), sent);
            }
        };
    }

    private final class Listening<R> extends SimpleForwardingClientCallListener<R> {
        Listening(ClientCall.Listener<R> listener) {
            super(listener);
        }

        @Override
        public void onHeaders(Metadata headers) {
            super.onHeaders(headers);
            come.countDown();
        }
    }
}
