package interop;

import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import ma.streaming.api.v1.Api.PacketResponse;

/** An open read: packets in the scenario's words by their streams. */
final class Read<R> {
    private final Packets packets;
    private final Iterator<R> replies;
    private final Function<R, List<PacketResponse>> packetsOf;
    private Iterator<PacketResponse> pending = Collections.emptyIterator();

    Read(Packets packets, Iterator<R> replies, Function<R, List<PacketResponse>> packetsOf) {
        this.packets = packets;
        this.replies = replies;
        this.packetsOf = packetsOf;
    }

    Map<String, List<Got>> take(int count) {
        Map<String, List<Got>> found = new LinkedHashMap<>();
        for (int i = 0; i < count; i++) {
            PacketResponse response = next();
            if (response == null) {
                throw new IllegalStateException("the server ended the call after " + i + " of " + count + " packets");
            }
            add(found, response);
        }
        return found;
    }

    /** What still comes until the server ends the call, and with which code. */
    Got rest() {
        Map<String, List<Got>> found = new LinkedHashMap<>();
        Status.Code code = Status.Code.OK;
        try {
            for (PacketResponse response = next(); response != null; response = next()) {
                add(found, response);
            }
        } catch (StatusRuntimeException error) {
            code = error.getStatus().getCode();
        }
        return Got.of("packets", found, "code", code.value());
    }

    /** Null when the server has ended the call with OK; StatusRuntimeException when otherwise. */
    private PacketResponse next() {
        while (!pending.hasNext()) {
            if (!replies.hasNext()) {
                return null;
            }
            pending = packetsOf.apply(replies.next()).iterator();
        }
        return pending.next();
    }

    /** Packets have an order within their stream only. */
    private void add(Map<String, List<Got>> found, PacketResponse response) {
        found.computeIfAbsent(response.getStream(), stream -> new ArrayList<>()).add(packets.describe(response));
    }
}
