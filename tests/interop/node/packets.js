'use strict';

/** Packets as the scenario describes them, to and from messages. 64-bit numbers are texts, also in messages. */

/** Content up to this length is told byte by byte, longer content as one byte and how often it stands there. */
const SHORT_BYTES = 64;

class Packets {
  /** `messages` holds the content messages' definitions; the look-ups ask the server and are asynchronous. */
  constructor(messages, lookUpList, lookUpEvent) {
    this.messages = messages;
    this.lookUpList = lookUpList;
    this.lookUpEvent = lookUpEvent;
    this.numberOfList = new Map();
    this.numberOfEvent = new Map();
  }

  // -- from the scenario

  encode(described) {
    return {
      type: described.type,
      id: described.id,
      session_key: described.session_key,
      is_essential: described.essential,
      content: this.encodeContent(described.content),
    };
  }

  encodeContent(content) {
    if ('bytes' in content) return Buffer.from(content.bytes, 'hex');
    if ('fill' in content) return Buffer.alloc(content.count, content.fill);
    if ('marker' in content) return this.messages.MarkerPacket.serialize(content.marker);
    if ('event' in content) return this.messages.EventPacket.serialize(this.encodeEvent(content.event));
    return this.messages.PeriodicDataPacket.serialize(this.encodePeriodic(content.periodic));
  }

  encodeEvent(event) {
    const data_format = event.numbered
      ? { data_format_identifier: this.numberOfEvent.get(event.event) }
      : { event_identifier: event.event };
    return { data_format, timestamp: event.timestamp, raw_values: event.values };
  }

  encodePeriodic(periodic) {
    const data_format = periodic.numbered
      ? { data_format_identifier: this.numberOfList.get(periodic.parameters.join('\n')) }
      : { parameter_identifiers: { parameter_identifiers: periodic.parameters } };
    const columns = periodic.columns.map((values) => ({
      double_samples: { samples: values.map((value) => ({ value, status: 'DATA_STATUS_VALID' })) },
    }));
    return { data_format, start_time: periodic.start_time, interval: periodic.interval, columns };
  }

  // -- to the result

  /** What was read, in the scenario's words, without its stream. */
  async describe(response) {
    const packet = response.packet;
    return {
      id: packet.id,
      type: packet.type,
      session_key: packet.session_key,
      essential: packet.is_essential,
      content: await this.describeContent(packet),
      has_submit_time: Number(response.submit_time.seconds) > 0,
    };
  }

  async describeContent({ type, content }) {
    const messages = this.messages;
    switch (type) {
      case 'Marker':
        return { marker: describeMarker(messages.MarkerPacket.deserialize(content)) };
      case 'Event':
        return { event: await this.describeEvent(messages.EventPacket.deserialize(content)) };
      case 'PeriodicData':
        return { periodic: await this.describePeriodic(messages.PeriodicDataPacket.deserialize(content)) };
      case 'DataFormatDefinition':
        return { definition: describeDefinition(messages.DataFormatDefinitionPacket.deserialize(content)) };
      default:
        return describeBytes(content);
    }
  }

  async describeEvent(event) {
    const format = event.data_format;
    const numbered = format.format === 'data_format_identifier';
    return {
      numbered,
      event: numbered ? await this.lookUpEvent(format.data_format_identifier) : format.event_identifier,
      timestamp: event.timestamp,
      values: event.raw_values,
    };
  }

  async describePeriodic(periodic) {
    const format = periodic.data_format;
    const numbered = format.format === 'data_format_identifier';
    return {
      numbered,
      parameters: numbered
        ? await this.lookUpList(format.data_format_identifier)
        : format.parameter_identifiers.parameter_identifiers,
      start_time: periodic.start_time,
      interval: periodic.interval,
      columns: periodic.columns.map((column) => column.double_samples.samples.map((sample) => sample.value)),
    };
  }
}

function describeMarker({ timestamp, end_time, label, value }) {
  return { timestamp, end_time, label, value };
}

function describeDefinition(definition) {
  return {
    number: definition.identifier,
    type: definition.type,
    parameters: definition.parameter_identifiers ? definition.parameter_identifiers.parameter_identifiers : [],
    event: definition.event_identifier ?? '',
  };
}

function describeBytes(content) {
  if (content.length <= SHORT_BYTES) return { bytes: content.toString('hex') };
  const fill = content.every((each) => each === content[0]) ? content[0] : -1;
  return { fill, count: content.length };
}

module.exports = { Packets };
