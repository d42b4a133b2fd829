package interop;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.function.LongFunction;
import ma.streaming.api.v1.Api.PacketResponse;
import ma.streaming.open_data.v1.OpenData.DataFormatDefinitionPacket;
import ma.streaming.open_data.v1.OpenData.DataStatus;
import ma.streaming.open_data.v1.OpenData.DoubleSample;
import ma.streaming.open_data.v1.OpenData.DoubleSampleList;
import ma.streaming.open_data.v1.OpenData.EventDataFormat;
import ma.streaming.open_data.v1.OpenData.EventPacket;
import ma.streaming.open_data.v1.OpenData.MarkerPacket;
import ma.streaming.open_data.v1.OpenData.Packet;
import ma.streaming.open_data.v1.OpenData.ParameterList;
import ma.streaming.open_data.v1.OpenData.PeriodicDataPacket;
import ma.streaming.open_data.v1.OpenData.SampleColumn;
import ma.streaming.open_data.v1.OpenData.SampleDataFormat;

/** Packets as the scenario describes them, to and from messages. 64-bit numbers are texts. */
final class Packets {
    /** Content up to this length is told byte by byte, longer content as one byte and how often it stands there. */
    private static final int SHORT_BYTES = 64;

    /** Data format identifiers of the scenario's lists and event; the way back is to ask the server. */
    final Map<List<String>, Long> numberOfList = new HashMap<>();

    final Map<String, Long> numberOfEvent = new HashMap<>();
    private final LongFunction<List<String>> lookUpList;
    private final LongFunction<String> lookUpEvent;

    Packets(LongFunction<List<String>> lookUpList, LongFunction<String> lookUpEvent) {
        this.lookUpList = lookUpList;
        this.lookUpEvent = lookUpEvent;
    }

    // -- from the scenario ------------------------------------------------------------------------------------------

    Packet encode(JsonObject described) {
        return Packet.newBuilder()
                .setType(described.get("type").getAsString())
                .setId(unsigned(described, "id"))
                .setSessionKey(described.get("session_key").getAsString())
                .setIsEssential(described.get("essential").getAsBoolean())
                .setContent(encodeContent(described.getAsJsonObject("content")))
                .build();
    }

    private ByteString encodeContent(JsonObject content) {
        if (content.has("bytes")) {
            return ByteString.copyFrom(HexFormat.of().parseHex(content.get("bytes").getAsString()));
        }
        if (content.has("fill")) {
            byte[] filled = new byte[content.get("count").getAsInt()];
            java.util.Arrays.fill(filled, (byte) content.get("fill").getAsInt());
            return ByteString.copyFrom(filled);
        }
        if (content.has("marker")) {
            return encodeMarker(content.getAsJsonObject("marker")).toByteString();
        }
        if (content.has("event")) {
            return encodeEvent(content.getAsJsonObject("event")).toByteString();
        }
        return encodePeriodic(content.getAsJsonObject("periodic")).toByteString();
    }

    private static MarkerPacket encodeMarker(JsonObject marker) {
        return MarkerPacket.newBuilder()
                .setTimestamp(unsigned(marker, "timestamp"))
                .setEndTime(unsigned(marker, "end_time"))
                .setLabel(marker.get("label").getAsString())
                .setValue(marker.get("value").getAsLong())
                .build();
    }

    private EventPacket encodeEvent(JsonObject event) {
        String name = event.get("event").getAsString();
        EventDataFormat.Builder format = EventDataFormat.newBuilder();
        if (event.get("numbered").getAsBoolean()) {
            format.setDataFormatIdentifier(numberOfEvent.get(name));
        } else {
            format.setEventIdentifier(name);
        }
        return EventPacket.newBuilder()
                .setDataFormat(format)
                .setTimestamp(unsigned(event, "timestamp"))
                .addAllRawValues(doubles(event.getAsJsonArray("values")))
                .build();
    }

    private PeriodicDataPacket encodePeriodic(JsonObject periodic) {
        List<String> names = texts(periodic.getAsJsonArray("parameters"));
        SampleDataFormat.Builder format = SampleDataFormat.newBuilder();
        if (periodic.get("numbered").getAsBoolean()) {
            format.setDataFormatIdentifier(numberOfList.get(names));
        } else {
            format.setParameterIdentifiers(ParameterList.newBuilder().addAllParameterIdentifiers(names));
        }
        PeriodicDataPacket.Builder packet = PeriodicDataPacket.newBuilder()
                .setDataFormat(format)
                .setStartTime(unsigned(periodic, "start_time"))
                .setInterval((int) periodic.get("interval").getAsLong());
        for (JsonElement column : periodic.getAsJsonArray("columns")) {
            packet.addColumns(encodeColumn(doubles(column.getAsJsonArray())));
        }
        return packet.build();
    }

    private static SampleColumn encodeColumn(List<Double> values) {
        DoubleSampleList.Builder samples = DoubleSampleList.newBuilder();
        for (double value : values) {
            samples.addSamples(DoubleSample.newBuilder().setValue(value).setStatus(DataStatus.DATA_STATUS_VALID));
        }
        return SampleColumn.newBuilder().setDoubleSamples(samples).build();
    }

    static List<String> texts(JsonArray array) {
        return array.asList().stream().map(JsonElement::getAsString).toList();
    }

    private static List<Double> doubles(JsonArray array) {
        return array.asList().stream().map(JsonElement::getAsDouble).toList();
    }

    /** Java keeps an unsigned number in a signed one of the same bits. */
    static long unsigned(JsonObject object, String field) {
        return Long.parseUnsignedLong(object.get(field).getAsString());
    }

    // -- to the result ----------------------------------------------------------------------------------------------

    /** What was read, in the scenario's words, without its stream. */
    Got describe(PacketResponse response) {
        Packet packet = response.getPacket();
        return Got.of(
                "id", Long.toUnsignedString(packet.getId()),
                "type", packet.getType(),
                "session_key", packet.getSessionKey(),
                "essential", packet.getIsEssential(),
                "content", describeContent(packet),
                "has_submit_time", response.getSubmitTime().getSeconds() > 0);
    }

    private Got describeContent(Packet packet) {
        ByteString content = packet.getContent();
        try {
            return switch (packet.getType()) {
                case "Marker" -> Got.of("marker", describeMarker(MarkerPacket.parseFrom(content)));
                case "Event" -> Got.of("event", describeEvent(EventPacket.parseFrom(content)));
                case "PeriodicData" -> Got.of("periodic", describePeriodic(PeriodicDataPacket.parseFrom(content)));
                case "DataFormatDefinition" ->
                    Got.of("definition", describeDefinition(DataFormatDefinitionPacket.parseFrom(content)));
                default -> describeBytes(content.toByteArray());
            };
        } catch (InvalidProtocolBufferException error) {
            throw new IllegalStateException(error);
        }
    }

    private static Got describeBytes(byte[] content) {
        if (content.length <= SHORT_BYTES) {
            return Got.of("bytes", HexFormat.of().formatHex(content));
        }
        int fill = Byte.toUnsignedInt(content[0]);
        for (byte each : content) {
            if (each != content[0]) {
                fill = -1;
            }
        }
        return Got.of("fill", fill, "count", content.length);
    }

    private static Got describeMarker(MarkerPacket marker) {
        return Got.of(
                "timestamp", Long.toUnsignedString(marker.getTimestamp()),
                "end_time", Long.toUnsignedString(marker.getEndTime()),
                "label", marker.getLabel(),
                "value", Long.toString(marker.getValue()));
    }

    private Got describeEvent(EventPacket event) {
        EventDataFormat format = event.getDataFormat();
        boolean numbered = format.hasDataFormatIdentifier();
        return Got.of(
                "numbered", numbered,
                "event", numbered ? lookUpEvent.apply(format.getDataFormatIdentifier()) : format.getEventIdentifier(),
                "timestamp", Long.toUnsignedString(event.getTimestamp()),
                "values", event.getRawValuesList());
    }

    private Got describePeriodic(PeriodicDataPacket periodic) {
        SampleDataFormat format = periodic.getDataFormat();
        boolean numbered = format.hasDataFormatIdentifier();
        List<String> named = format.getParameterIdentifiers().getParameterIdentifiersList();
        return Got.of(
                "numbered", numbered,
                "parameters", numbered ? lookUpList.apply(format.getDataFormatIdentifier()) : named,
                "start_time", Long.toUnsignedString(periodic.getStartTime()),
                "interval", Integer.toUnsignedLong(periodic.getInterval()),
                "columns", describeColumns(periodic));
    }

    private static List<List<Double>> describeColumns(PeriodicDataPacket periodic) {
        List<List<Double>> columns = new ArrayList<>();
        for (SampleColumn column : periodic.getColumnsList()) {
            columns.add(column.getDoubleSamples().getSamplesList().stream().map(DoubleSample::getValue).toList());
        }
        return columns;
    }

    private static Got describeDefinition(DataFormatDefinitionPacket definition) {
        return Got.of(
                "number", Long.toUnsignedString(definition.getIdentifier()),
                "type", definition.getType().name(),
                "parameters", definition.getParameterIdentifiers().getParameterIdentifiersList(),
                "event", definition.getEventIdentifier());
    }
}
