package interop;

import com.google.gson.GsonBuilder;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.Duration;
import com.google.protobuf.Timestamp;
import io.grpc.ClientInterceptor;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.stub.AbstractStub;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import ma.streaming.api.v1.Api.AddAssociateSessionRequest;
import ma.streaming.api.v1.Api.CloseConnectionRequest;
import ma.streaming.api.v1.Api.Connection;
import ma.streaming.api.v1.Api.ConnectionDetails;
import ma.streaming.api.v1.Api.CreateSessionRequest;
import ma.streaming.api.v1.Api.CreateSessionResponse;
import ma.streaming.api.v1.Api.DataPacketDetails;
import ma.streaming.api.v1.Api.DataPacketRequest;
import ma.streaming.api.v1.Api.EndSessionRequest;
import ma.streaming.api.v1.Api.EndSessionResponse;
import ma.streaming.api.v1.Api.GetConnectionRequest;
import ma.streaming.api.v1.Api.GetCurrentSessionsRequest;
import ma.streaming.api.v1.Api.GetEventDataFormatIdRequest;
import ma.streaming.api.v1.Api.GetEventRequest;
import ma.streaming.api.v1.Api.GetParameterDataFormatIdRequest;
import ma.streaming.api.v1.Api.GetParametersListRequest;
import ma.streaming.api.v1.Api.GetSessionInfoRequest;
import ma.streaming.api.v1.Api.GetSessionInfoResponse;
import ma.streaming.api.v1.Api.GetSessionStartNotificationRequest;
import ma.streaming.api.v1.Api.GetSessionStartNotificationResponse;
import ma.streaming.api.v1.Api.GetSessionStopNotificationRequest;
import ma.streaming.api.v1.Api.GetSessionStopNotificationResponse;
import ma.streaming.api.v1.Api.InfoType;
import ma.streaming.api.v1.Api.NewConnectionRequest;
import ma.streaming.api.v1.Api.ReadDataPacketsRequest;
import ma.streaming.api.v1.Api.ReadDataPacketsResponse;
import ma.streaming.api.v1.Api.ReadEssentialsRequest;
import ma.streaming.api.v1.Api.ReadEssentialsResponse;
import ma.streaming.api.v1.Api.ReadPacketsRequest;
import ma.streaming.api.v1.Api.ReadPacketsResponse;
import ma.streaming.api.v1.Api.UpdateSessionDetailsRequest;
import ma.streaming.api.v1.Api.UpdateSessionIdentifierRequest;
import ma.streaming.api.v1.Api.WriteDataPacketRequest;
import ma.streaming.api.v1.Api.WriteDataPacketsRequest;
import ma.streaming.api.v1.Api.WriteDataPacketsResponse;
import ma.streaming.api.v1.Api.WriteInfoPacketRequest;
import ma.streaming.api.v1.ConnectionManagerServiceGrpc;
import ma.streaming.api.v1.DataFormatManagerServiceGrpc;
import ma.streaming.api.v1.PacketReaderServiceGrpc;
import ma.streaming.api.v1.PacketWriterServiceGrpc;
import ma.streaming.api.v1.SessionManagementServiceGrpc;
import ma.streaming.key_generator.v1.KeyGenerator.GenerateUniqueKeyRequest;
import ma.streaming.key_generator.v1.KeyGenerator.KeyType;
import ma.streaming.key_generator.v1.UniqueKeyGeneratorServiceGrpc;
import ma.streaming.open_data.v1.OpenData.Packet;
import ma.streaming.open_data.v1.OpenData.SessionInfoPacket;

/**
 * The scenario in Java.
 *
 * <p>Arguments: TARGET KEY_TARGET SCENARIO DATA_SOURCE. Prints one JSON object: what each step got. The steps are
 * methods, in the order in which {@link #run} calls them.
 */
final class Client {
    private static final Metadata.Key<String> ACKNOWLEDGE =
            Metadata.Key.of("trackside-ack", Metadata.ASCII_STRING_MARSHALLER);
    private static final Metadata.Key<String> ACCEPTED =
            Metadata.Key.of("trackside-accepted", Metadata.ASCII_STRING_MARSHALLER);

    private final JsonObject scenario;
    private final Packets packets = new Packets(this::lookUpList, this::lookUpEvent);
    private final ManagedChannel channel;
    private final ManagedChannel keyChannel;
    private final String source;
    private final int callSeconds;
    private String sessionKey = "";

    private Client(String target, String keyTarget, JsonObject scenario, String source) {
        this.channel = NettyChannelBuilder.forTarget(target, InsecureChannelCredentials.create()).build();
        this.keyChannel = NettyChannelBuilder.forTarget(keyTarget, InsecureChannelCredentials.create()).build();
        this.scenario = scenario;
        this.source = source;
        this.callSeconds = scenario.get("call_seconds").getAsInt();
    }

    // Stubs are made for each call, since a deadline begins when it is set.

    private <S extends AbstractStub<S>> S bounded(S stub) {
        return stub.withDeadlineAfter(callSeconds, TimeUnit.SECONDS);
    }

    private PacketWriterServiceGrpc.PacketWriterServiceBlockingStub writer() {
        return bounded(PacketWriterServiceGrpc.newBlockingStub(channel));
    }

    private PacketReaderServiceGrpc.PacketReaderServiceBlockingStub reader() {
        return bounded(PacketReaderServiceGrpc.newBlockingStub(channel));
    }

    private ConnectionManagerServiceGrpc.ConnectionManagerServiceBlockingStub connections() {
        return bounded(ConnectionManagerServiceGrpc.newBlockingStub(channel));
    }

    private SessionManagementServiceGrpc.SessionManagementServiceBlockingStub sessions() {
        return bounded(SessionManagementServiceGrpc.newBlockingStub(channel));
    }

    private DataFormatManagerServiceGrpc.DataFormatManagerServiceBlockingStub formats() {
        return bounded(DataFormatManagerServiceGrpc.newBlockingStub(channel));
    }

    private Got run() throws Exception {
        Got result = Got.of("keys", makeKeys(), "formats", defineFormats());
        Metadata acknowledge = new Metadata();
        acknowledge.put(ACKNOWLEDGE, "log");
        writeOneByOne("before_session", MetadataUtils.newAttachHeadersInterceptor(acknowledge));
        Iterator<GetSessionStartNotificationResponse> starts = subscribeToStarts();
        Iterator<GetSessionStopNotificationResponse> stops = subscribeToStops();
        result.put("created", createSession());
        GetSessionStartNotificationResponse started = starts.next();
        result.put("started", Got.of("session_key", started.getSessionKey(), "data_source", started.getDataSource()));
        result.put("info_at_start", sessionInfo(sessionKey));
        result.put("updated", updateSession());
        result.put("info_updated", sessionInfo(sessionKey));
        result.put("sessions", listSessions());
        writeOneByOne("unary");
        writeStream();
        result.put("refused", List.of(writeNothing(), writeRefusedStream()));
        result.put("echoed_connection", echoConnection());
        result.put("unknown", askForUnknown());
        result.put("read", readPastAndLive());
        result.put("essentials_without_session", readEssentialsWithoutSession());
        result.put("filtered", readFiltered());
        result.put("streams", waitForStreams());
        result.put("ended", List.of(endSession(), endSession()));
        GetSessionStopNotificationResponse stopped = stops.next();
        result.put("stopped", Got.of("session_key", stopped.getSessionKey(), "data_source", stopped.getDataSource()));
        result.put("info_at_end", sessionInfo(sessionKey));
        return result;
    }

    // -- keys and data formats --------------------------------------------------------------------------------------

    /** Of each kind, one from the key port and one from the main port. */
    private Got makeKeys() {
        List<String> texts = new ArrayList<>();
        List<String> numbers = new ArrayList<>();
        for (ManagedChannel each : List.of(keyChannel, channel)) {
            var stub = bounded(UniqueKeyGeneratorServiceGrpc.newBlockingStub(each));
            texts.add(stub.generateUniqueKey(keyRequest(KeyType.KEY_TYPE_STRING)).getStringKey());
            long number = stub.generateUniqueKey(keyRequest(KeyType.KEY_TYPE_ULONG)).getUlongKey();
            numbers.add(Long.toUnsignedString(number));
        }
        return Got.of("texts", texts, "numbers", numbers);
    }

    private static GenerateUniqueKeyRequest keyRequest(KeyType type) {
        return GenerateUniqueKeyRequest.newBuilder().setType(type).build();
    }

    private Got defineFormats() {
        List<String> names = Packets.texts(scenario.getAsJsonArray("parameters"));
        List<String> turnedNames = new ArrayList<>(names);
        Collections.reverse(turnedNames);
        String event = text("event");
        long number = numberOfList(names);
        long turned = numberOfList(turnedNames);
        long eventNumber = numberOfEvent(event);
        packets.numberOfList.put(names, number);
        packets.numberOfList.put(turnedNames, turned);
        packets.numberOfEvent.put(event, eventNumber);
        long unknown = Packets.unsigned(scenario, "unknown_format");
        return Got.of(
                "parameters", unsignedTexts(number, turned, numberOfList(names)),
                "event", unsignedTexts(eventNumber, numberOfEvent(event)),
                "names", List.of(lookUpList(number), lookUpList(turned)),
                "event_name", lookUpEvent(eventNumber),
                "unknown", List.of(lookUpList(unknown), lookUpEvent(unknown)));
    }

    private static List<String> unsignedTexts(long... numbers) {
        return java.util.Arrays.stream(numbers).mapToObj(Long::toUnsignedString).toList();
    }

    private long numberOfList(List<String> names) {
        var request = GetParameterDataFormatIdRequest.newBuilder().setDataSource(source).addAllParameters(names);
        return formats().getParameterDataFormatId(request.build()).getDataFormatIdentifier();
    }

    private long numberOfEvent(String name) {
        var request = GetEventDataFormatIdRequest.newBuilder().setDataSource(source).setEvent(name);
        return formats().getEventDataFormatId(request.build()).getDataFormatIdentifier();
    }

    private List<String> lookUpList(long number) {
        var request = GetParametersListRequest.newBuilder().setDataSource(source).setDataFormatIdentifier(number);
        return formats().getParametersList(request.build()).getParametersList();
    }

    private String lookUpEvent(long number) {
        var request = GetEventRequest.newBuilder().setDataSource(source).setDataFormatIdentifier(number);
        return formats().getEvent(request.build()).getEvent();
    }

    // -- sessions ---------------------------------------------------------------------------------------------------

    private Iterator<GetSessionStartNotificationResponse> subscribeToStarts() throws InterruptedException {
        AwaitedHeaders headers = new AwaitedHeaders();
        var request = GetSessionStartNotificationRequest.newBuilder().setDataSource(source).build();
        var told = sessions().withInterceptors(headers).getSessionStartNotification(request);
        headers.await(callSeconds);
        return told;
    }

    private Iterator<GetSessionStopNotificationResponse> subscribeToStops() throws InterruptedException {
        AwaitedHeaders headers = new AwaitedHeaders();
        var request = GetSessionStopNotificationRequest.newBuilder().setDataSource(source).build();
        var told = sessions().withInterceptors(headers).getSessionStopNotification(request);
        headers.await(callSeconds);
        return told;
    }

    private Got createSession() {
        JsonObject wanted = scenario.getAsJsonObject("session");
        JsonObject offset = wanted.getAsJsonObject("utc_offset");
        CreateSessionResponse reply = sessions().createSession(CreateSessionRequest.newBuilder()
                .setDataSource(source)
                .setType(wanted.get("type").getAsString())
                .setVersion((int) wanted.get("version").getAsLong())
                .setIdentifier(wanted.get("identifier").getAsString())
                .setUtcOffset(Duration.newBuilder()
                        .setSeconds(offset.get("seconds").getAsLong())
                        .setNanos(offset.get("nanos").getAsInt()))
                .setCreationTime(timestamp(wanted.getAsJsonObject("creation_time")))
                .putAllDetails(textMap(wanted.getAsJsonObject("details")))
                .addAllAssociateSessionKey(Packets.texts(wanted.getAsJsonArray("associates")))
                .build());
        sessionKey = reply.getSessionKey();
        return Got.of(
                "success", reply.getSuccess(),
                "session_key", reply.getSessionKey(),
                "data_source", reply.getNewSession().getDataSource(),
                "offsets", describeOffsets(reply.getNewSession().getTopicPartitionOffsetsMap()),
                "identifier", reply.getNewSession().getSessionInfo().getIdentifier());
    }

    /** By an info packet, then by calls; the answers to these say that the packet has been taken, too. */
    private List<Boolean> updateSession() {
        SessionInfoPacket info = SessionInfoPacket.newBuilder()
                .setDataSource(source)
                .putAllDetails(textMap(scenario.getAsJsonObject("info_packet")))
                .build();
        Packet.Builder packet = Packet.newBuilder()
                .setType("SessionInfo")
                .setSessionKey(sessionKey)
                .setContent(info.toByteString());
        writer().writeInfoPacket(WriteInfoPacketRequest.newBuilder()
                .setMessage(packet)
                .setType(InfoType.INFO_TYPE_SESSION_INFO)
                .build());
        JsonObject update = scenario.getAsJsonObject("update");
        var rename = UpdateSessionIdentifierRequest.newBuilder()
                .setSessionKey(sessionKey)
                .setIdentifier(update.get("identifier").getAsString());
        var details = UpdateSessionDetailsRequest.newBuilder()
                .setSessionKey(sessionKey)
                .putAllDetails(textMap(update.getAsJsonObject("details")));
        var join = AddAssociateSessionRequest.newBuilder()
                .setSessionKey(sessionKey)
                .setAssociateSessionKey(update.get("associate").getAsString());
        return List.of(
                sessions().updateSessionIdentifier(rename.build()).getSuccess(),
                sessions().updateSessionDetails(details.build()).getSuccess(),
                sessions().addAssociateSession(join.build()).getSuccess());
    }

    /** Without the streams, which appear in their own time. */
    private Got sessionInfo(String key) {
        GetSessionInfoResponse info = askSessionInfo(key);
        Duration utcOffset = info.getUtcOffset();
        return Got.of(
                "success", info.getSuccess(),
                "data_source", info.getDataSource(),
                "identifier", info.getIdentifier(),
                "type", info.getType(),
                "version", Integer.toUnsignedLong(info.getVersion()),
                "associates", info.getAssociateSessionKeysList(),
                "is_complete", info.getIsComplete(),
                "offsets", describeOffsets(info.getTopicPartitionOffsetsMap()),
                "main_offset", Long.toString(info.getMainOffset()),
                "essentials_offset", Long.toString(info.getEssentialsOffset()),
                "details", info.getDetailsMap(),
                "utc_offset", info.hasUtcOffset() ? time(utcOffset.getSeconds(), utcOffset.getNanos()) : null,
                "creation_time", info.hasCreationTime() ? time(info.getCreationTime()) : null,
                "termination_time", info.hasTerminationTime() ? time(info.getTerminationTime()) : null);
    }

    private GetSessionInfoResponse askSessionInfo(String key) {
        return sessions().getSessionInfo(GetSessionInfoRequest.newBuilder().setSessionKey(key).build());
    }

    private List<String> listSessions() {
        var request = GetCurrentSessionsRequest.newBuilder().setDataSource(source);
        return sessions().getCurrentSessions(request.build()).getSessionKeysList();
    }

    /** Named streams, asked for again and again until all are known. */
    private List<String> waitForStreams() throws InterruptedException {
        List<String> streams = List.of();
        for (int i = 0; i < callSeconds * 100; i++) {
            streams = askSessionInfo(sessionKey).getStreamsList();
            if (streams.size() >= scenario.get("named_streams").getAsInt()) {
                break;
            }
            Thread.sleep(10);
        }
        return streams.stream().sorted().toList();
    }

    private Got endSession() {
        JsonObject end = scenario.getAsJsonObject("session").getAsJsonObject("termination_time");
        var request = EndSessionRequest.newBuilder().setSessionKey(sessionKey).setTerminationTime(timestamp(end));
        EndSessionResponse reply = sessions().endSession(request.build());
        return Got.of(
                "success", reply.getSuccess(),
                "data_source", reply.getEndSession().getDataSource(),
                "offsets", describeOffsets(reply.getEndSession().getTopicPartitionOffsetsMap()));
    }

    // -- writing ----------------------------------------------------------------------------------------------------

    private DataPacketDetails detail(String name) {
        JsonObject described = scenario.getAsJsonObject("packets").getAsJsonObject(name);
        return DataPacketDetails.newBuilder()
                .setMessage(packets.encode(described))
                .setDataSource(source)
                .setStream(described.get("stream").getAsString())
                .setSessionKey(described.get("in_session").getAsBoolean() ? sessionKey : "")
                .build();
    }

    private WriteDataPacketsRequest message(JsonElement names) {
        WriteDataPacketsRequest.Builder request = WriteDataPacketsRequest.newBuilder();
        for (JsonElement name : names.getAsJsonArray()) {
            request.addDetails(detail(name.getAsString()));
        }
        return request.build();
    }

    private void writeOneByOne(String step, ClientInterceptor... interceptors) {
        for (JsonElement name : scenario.getAsJsonArray(step)) {
            var request = WriteDataPacketRequest.newBuilder().setDetail(detail(name.getAsString()));
            writer().withInterceptors(interceptors).writeDataPacket(request.build());
        }
    }

    /** Half-closed after the last message; the reply is awaited. */
    private void writeStream() throws Exception {
        Reply reply = new Reply();
        var call = bounded(PacketWriterServiceGrpc.newStub(channel)).writeDataPackets(reply);
        for (JsonElement names : scenario.getAsJsonArray("stream")) {
            call.onNext(message(names));
        }
        call.onCompleted();
        reply.come.get(callSeconds, TimeUnit.SECONDS);
    }

    private Got writeNothing() {
        try {
            writer().writeDataPacket(WriteDataPacketRequest.getDefaultInstance());
        } catch (StatusRuntimeException error) {
            return describeError(error);
        }
        return Got.of("code", 0);
    }

    /** The call ends at the bad message, before the client has ended its side. */
    private Got writeRefusedStream() throws Exception {
        JsonObject wanted = scenario.getAsJsonObject("refused_stream");
        JsonArray names = new JsonArray();
        names.add(wanted.get("packet"));
        WriteDataPacketsRequest.Builder bad = message(names).toBuilder();
        bad.getDetailsBuilder(0).setDataSource(wanted.get("data_source").getAsString());
        Reply reply = new Reply();
        var call = bounded(PacketWriterServiceGrpc.newStub(channel)).writeDataPackets(reply);
        for (JsonElement good : wanted.getAsJsonArray("messages")) {
            call.onNext(message(good));
        }
        call.onNext(bad.build());
        try {
            reply.come.get(callSeconds, TimeUnit.SECONDS);
        } catch (ExecutionException error) {
            return describeError((StatusRuntimeException) error.getCause());
        }
        return Got.of("code", 0);
    }

    /** The one reply of a client stream, or its error. */
    private static final class Reply implements StreamObserver<WriteDataPacketsResponse> {
        final CompletableFuture<WriteDataPacketsResponse> come = new CompletableFuture<>();

        @Override
        public void onNext(WriteDataPacketsResponse reply) {
            come.complete(reply);
        }

        @Override
        public void onError(Throwable error) {
            come.completeExceptionally(error);
        }

        @Override
        public void onCompleted() {}
    }

    // -- reading ----------------------------------------------------------------------------------------------------

    private ConnectionDetails.Builder detailsOfSource() {
        return ConnectionDetails.newBuilder().setDataSource(source);
    }

    private Connection connect(ConnectionDetails.Builder details) {
        return connections().newConnection(NewConnectionRequest.newBuilder().setDetails(details).build()).getConnection();
    }

    private boolean close(Connection connection) {
        var request = CloseConnectionRequest.newBuilder().setConnection(connection);
        return connections().closeConnection(request.build()).getSuccess();
    }

    private Read<ReadPacketsResponse> readPackets(Connection connection) {
        var request = ReadPacketsRequest.newBuilder().setConnection(connection);
        return new Read<>(packets, reader().readPackets(request.build()), ReadPacketsResponse::getResponseList);
    }

    private Read<ReadEssentialsResponse> readEssentials(Connection connection) {
        var request = ReadEssentialsRequest.newBuilder().setConnection(connection);
        return new Read<>(packets, reader().readEssentials(request.build()), ReadEssentialsResponse::getResponseList);
    }

    private Got echoConnection() {
        JsonObject wanted = scenario.getAsJsonObject("echoed_connection");
        ConnectionDetails.Builder asked = detailsOfSource()
                .setSessionKey(sessionKey)
                .addAllStreams(Packets.texts(wanted.getAsJsonArray("streams")))
                .setMainOffset(wanted.get("main_offset").getAsLong())
                .setEssentialsOffset(wanted.get("essentials_offset").getAsLong())
                .setExcludeMainStream(wanted.get("exclude_main_stream").getAsBoolean())
                .setConsumerGroup(wanted.get("consumer_group").getAsString());
        wanted.getAsJsonArray("stream_offsets").forEach(offset -> asked.addStreamOffsets(offset.getAsLong()));
        Connection connection = connect(asked);
        var request = GetConnectionRequest.newBuilder().setConnection(connection);
        ConnectionDetails details = connections().getConnection(request.build()).getDetails();
        return Got.of(
                "data_source", details.getDataSource(),
                "session_key", details.getSessionKey(),
                "streams", details.getStreamsList(),
                "stream_offsets", details.getStreamOffsetsList().stream().map(String::valueOf).toList(),
                "main_offset", Long.toString(details.getMainOffset()),
                "essentials_offset", Long.toString(details.getEssentialsOffset()),
                "exclude_main_stream", details.getExcludeMainStream(),
                "consumer_group", details.getConsumerGroup(),
                "closed", List.of(close(connection), close(connection)));
    }

    /** Answers with status OK that say no. */
    private Got askForUnknown() {
        List<Boolean> known = new ArrayList<>();
        List<Got> reads = new ArrayList<>();
        for (JsonElement number : scenario.getAsJsonArray("unknown_connections")) {
            Connection connection = Connection.newBuilder().setId(number.getAsLong()).build();
            var request = GetConnectionRequest.newBuilder().setConnection(connection);
            known.add(connections().getConnection(request.build()).hasDetails());
            reads.add(readPackets(connection).rest());
        }
        var end = EndSessionRequest.newBuilder().setSessionKey("no such session");
        return Got.of(
                "connections", known,
                "reads", reads,
                "session", askSessionInfo("no such session").getSuccess(),
                "ended", sessions().endSession(end.build()).getSuccess());
    }

    /** Two reads of one connection, open at once; packets are written meanwhile; closing it ends both. */
    private Got readPastAndLive() {
        JsonObject counts = scenario.getAsJsonObject("counts");
        Connection connection = connect(detailsOfSource().setSessionKey(sessionKey));
        var all = readPackets(connection);
        var essentials = readEssentials(connection);
        Got found = Got.of("past", all.take(counts.get("past").getAsInt()));
        writeOneByOne("live");
        found.put("live", all.take(scenario.getAsJsonArray("live").size()));
        found.put("essentials", essentials.take(counts.get("essentials").getAsInt()));
        found.put("closed", close(connection));
        found.put("after_close", List.of(all.rest(), essentials.rest()));
        return found;
    }

    /** Ends by itself. */
    private Got readEssentialsWithoutSession() {
        return readEssentials(connect(detailsOfSource())).rest();
    }

    private Got readFiltered() {
        JsonObject wanted = scenario.getAsJsonObject("filter");
        Connection connection = connect(detailsOfSource()
                .setSessionKey(sessionKey)
                .addAllStreams(Packets.texts(wanted.getAsJsonArray("streams")))
                .setExcludeMainStream(wanted.get("exclude_main_stream").getAsBoolean()));
        DataPacketRequest.Builder request = DataPacketRequest.newBuilder()
                .setConnection(connection)
                .addAllIncludeParameters(Packets.texts(wanted.getAsJsonArray("include_parameters")))
                .addAllExcludeParameters(Packets.texts(wanted.getAsJsonArray("exclude_parameters")))
                .addAllIncludeEvents(Packets.texts(wanted.getAsJsonArray("include_events")))
                .addAllExcludeEvents(Packets.texts(wanted.getAsJsonArray("exclude_events")))
                .setIncludeMarkers(wanted.get("include_markers").getAsBoolean());
        var replies = reader().readDataPackets(ReadDataPacketsRequest.newBuilder().setRequest(request).build());
        var read = new Read<>(packets, replies, ReadDataPacketsResponse::getResponseList);
        var found = read.take(scenario.getAsJsonObject("counts").get("filtered").getAsInt());
        return Got.of("found", found, "closed", close(connection), "after_close", read.rest());
    }

    // -- small things -----------------------------------------------------------------------------------------------

    private String text(String field) {
        return scenario.get(field).getAsString();
    }

    private static Map<String, String> textMap(JsonObject object) {
        Map<String, String> found = new TreeMap<>();
        object.entrySet().forEach(entry -> found.put(entry.getKey(), entry.getValue().getAsString()));
        return found;
    }

    private static Timestamp timestamp(JsonObject described) {
        return Timestamp.newBuilder()
                .setSeconds(described.get("seconds").getAsLong())
                .setNanos(described.get("nanos").getAsInt())
                .build();
    }

    private static Got time(Timestamp found) {
        return time(found.getSeconds(), found.getNanos());
    }

    private static Got time(long seconds, int nanos) {
        return Got.of("seconds", Long.toString(seconds), "nanos", nanos);
    }

    private static Map<String, String> describeOffsets(Map<String, Long> offsets) {
        Map<String, String> told = new TreeMap<>();
        offsets.forEach((topic, offset) -> told.put(topic, Long.toString(offset)));
        return told;
    }

    private static Got describeError(StatusRuntimeException error) {
        Metadata trailers = error.getTrailers();
        return Got.of(
                "code", error.getStatus().getCode().value(),
                "message", error.getStatus().getDescription(),
                "accepted", trailers == null ? null : trailers.get(ACCEPTED));
    }

    public static void main(String[] arguments) throws Exception {
        JsonObject scenario = JsonParser.parseString(Files.readString(Path.of(arguments[2]))).getAsJsonObject();
        Client client = new Client(arguments[0], arguments[1], scenario, arguments[3]);
        String result = new GsonBuilder().serializeNulls().create().toJson(client.run());
        new PrintStream(System.out, true, StandardCharsets.UTF_8).println(result);
        client.channel.shutdownNow();
        client.keyChannel.shutdownNow();
    }
}
