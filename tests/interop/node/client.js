'use strict';

/**
 * The scenario in Node.
 *
 *   node client.js TARGET KEY_TARGET SCENARIO DATA_SOURCE
 *
 * prints one JSON object: what each step got. The .proto files lie beside this file, in `protos`.
 */

const fs = require('node:fs');
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');
const { Packets } = require('./packets');
const { Read } = require('./read');

const FILES = ['api', 'key_generator', 'open_data'].map((name) => `ma/streaming/${name}/v1/${name}.proto`);
const definitions = protoLoader.loadSync(FILES, {
  includeDirs: [path.join(__dirname, 'protos')],
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
  oneofs: true,
});
const { api, key_generator } = grpc.loadPackageDefinition(definitions).ma.streaming;

/** Definitions of the messages that packets carry as bytes, by their short names. */
function contentMessages() {
  const prefix = 'ma.streaming.open_data.v1.';
  const found = Object.entries(definitions).filter(([name]) => name.startsWith(prefix));
  return Object.fromEntries(found.map(([name, definition]) => [name.slice(prefix.length), definition]));
}

/** One run of the scenario. The steps are methods, in the order in which `run` calls them. */
class Client {
  constructor(target, keyTarget, scenario, source) {
    const plain = grpc.credentials.createInsecure();
    this.writer = new api.v1.PacketWriterService(target, plain);
    this.reader = new api.v1.PacketReaderService(target, plain);
    this.connections = new api.v1.ConnectionManagerService(target, plain);
    this.sessions = new api.v1.SessionManagementService(target, plain);
    this.formats = new api.v1.DataFormatManagerService(target, plain);
    this.keys = [keyTarget, target].map((each) => new key_generator.v1.UniqueKeyGeneratorService(each, plain));
    this.scenario = scenario;
    this.source = source;
    this.sessionKey = '';
    const lookUps = [(number) => this.lookUpList(number), (number) => this.lookUpEvent(number)];
    this.packets = new Packets(contentMessages(), ...lookUps);
  }

  async run() {
    const result = { keys: await this.makeKeys(), formats: await this.defineFormats() };
    await this.writeOneByOne('before_session', { 'trackside-ack': 'log' });
    const starts = await this.subscribe('GetSessionStartNotification');
    const stops = await this.subscribe('GetSessionStopNotification');
    result.created = await this.createSession();
    result.started = (await starts.told.next()).value;
    result.info_at_start = await this.sessionInfo(this.sessionKey);
    result.updated = await this.updateSession();
    result.info_updated = await this.sessionInfo(this.sessionKey);
    result.sessions = await this.listSessions();
    await this.writeOneByOne('unary');
    await this.writeStream();
    result.refused = [await this.writeNothing(), await this.writeRefusedStream()];
    result.echoed_connection = await this.echoConnection();
    result.unknown = await this.askForUnknown();
    result.read = await this.readPastAndLive();
    result.essentials_without_session = await this.readEssentialsWithoutSession();
    result.filtered = await this.readFiltered();
    result.streams = await this.waitForStreams();
    result.ended = [await this.endSession(), await this.endSession()];
    result.stopped = (await stops.told.next()).value;
    result.info_at_end = await this.sessionInfo(this.sessionKey);
    return result;
  }

  get bounds() {
    return { deadline: Date.now() + this.scenario.call_seconds * 1000 };
  }

  /** A unary call as a promise. */
  ask(stub, method, request, metadata = new grpc.Metadata()) {
    return new Promise((resolve, reject) => {
      stub[method](request, metadata, this.bounds, (error, reply) => (error ? reject(error) : resolve(reply)));
    });
  }

  // -- keys and data formats

  /** Of each kind, one from the key port and one from the main port. */
  async makeKeys() {
    const found = { texts: [], numbers: [] };
    for (const stub of this.keys) {
      found.texts.push((await this.ask(stub, 'GenerateUniqueKey', { type: 'KEY_TYPE_STRING' })).string_key);
      found.numbers.push((await this.ask(stub, 'GenerateUniqueKey', { type: 'KEY_TYPE_ULONG' })).ulong_key);
    }
    return found;
  }

  async defineFormats() {
    const { parameters: names, event, unknown_format: unknown } = this.scenario;
    const turnedNames = [...names].reverse();
    const [number, turned] = [await this.numberOfList(names), await this.numberOfList(turnedNames)];
    const eventNumber = await this.numberOfEvent(event);
    this.packets.numberOfList.set(names.join('\n'), number).set(turnedNames.join('\n'), turned);
    this.packets.numberOfEvent.set(event, eventNumber);
    return {
      parameters: [number, turned, await this.numberOfList(names)],
      event: [eventNumber, await this.numberOfEvent(event)],
      names: [await this.lookUpList(number), await this.lookUpList(turned)],
      event_name: await this.lookUpEvent(eventNumber),
      unknown: [await this.lookUpList(unknown), await this.lookUpEvent(unknown)],
    };
  }

  async numberOfList(parameters) {
    const request = { data_source: this.source, parameters };
    return (await this.ask(this.formats, 'GetParameterDataFormatId', request)).data_format_identifier;
  }

  async numberOfEvent(event) {
    const request = { data_source: this.source, event };
    return (await this.ask(this.formats, 'GetEventDataFormatId', request)).data_format_identifier;
  }

  async lookUpList(data_format_identifier) {
    const request = { data_source: this.source, data_format_identifier };
    return (await this.ask(this.formats, 'GetParametersList', request)).parameters;
  }

  async lookUpEvent(data_format_identifier) {
    const request = { data_source: this.source, data_format_identifier };
    return (await this.ask(this.formats, 'GetEvent', request)).event;
  }

  // -- sessions

  /** An open notification: with its headers a call says that it misses nothing from then on. */
  async subscribe(method) {
    const call = this.sessions[method]({ data_source: this.source }, this.bounds);
    await new Promise((resolve, reject) => call.once('metadata', resolve).once('error', reject));
    return { call, told: call[Symbol.asyncIterator]() };
  }

  async createSession() {
    const { type, version, identifier, utc_offset, creation_time, details, associates } = this.scenario.session;
    const wanted = { type, version, identifier, utc_offset, creation_time, details };
    const request = { data_source: this.source, associate_session_key: associates, ...wanted };
    const reply = await this.ask(this.sessions, 'CreateSession', request);
    this.sessionKey = reply.session_key;
    return {
      success: reply.success,
      session_key: reply.session_key,
      data_source: reply.new_session.data_source,
      offsets: reply.new_session.topic_partition_offsets,
      identifier: reply.new_session.session_info.identifier,
    };
  }

  /** By an info packet, then by calls; the answers to these say that the packet has been taken, too. */
  async updateSession() {
    const info = { data_source: this.source, details: this.scenario.info_packet };
    const content = this.packets.messages.SessionInfoPacket.serialize(info);
    const message = { type: 'SessionInfo', session_key: this.sessionKey, content };
    await this.ask(this.writer, 'WriteInfoPacket', { message, type: 'INFO_TYPE_SESSION_INFO' });
    const { identifier, details, associate: associate_session_key } = this.scenario.update;
    const changes = [
      ['UpdateSessionIdentifier', { identifier }],
      ['UpdateSessionDetails', { details }],
      ['AddAssociateSession', { associate_session_key }],
    ];
    const answers = [];
    for (const [method, change] of changes) {
      answers.push((await this.ask(this.sessions, method, { session_key: this.sessionKey, ...change })).success);
    }
    return answers;
  }

  /** Without the streams, which appear in their own time. */
  async sessionInfo(session_key) {
    const info = await this.ask(this.sessions, 'GetSessionInfo', { session_key });
    return {
      success: info.success,
      data_source: info.data_source,
      identifier: info.identifier,
      type: info.type,
      version: info.version,
      associates: info.associate_session_keys,
      is_complete: info.is_complete,
      offsets: info.topic_partition_offsets,
      main_offset: info.main_offset,
      essentials_offset: info.essentials_offset,
      details: info.details,
      utc_offset: info.utc_offset,
      creation_time: info.creation_time,
      termination_time: info.termination_time,
    };
  }

  async listSessions() {
    return (await this.ask(this.sessions, 'GetCurrentSessions', { data_source: this.source })).session_keys;
  }

  /** Named streams, asked for again and again until all are known. */
  async waitForStreams() {
    let streams = [];
    for (let i = 0; i < this.scenario.call_seconds * 100; i++) {
      streams = (await this.ask(this.sessions, 'GetSessionInfo', { session_key: this.sessionKey })).streams;
      if (streams.length >= this.scenario.named_streams) break;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return streams.sort();
  }

  async endSession() {
    const { termination_time } = this.scenario.session;
    const reply = await this.ask(this.sessions, 'EndSession', { session_key: this.sessionKey, termination_time });
    return {
      success: reply.success,
      data_source: reply.end_session.data_source,
      offsets: reply.end_session.topic_partition_offsets,
    };
  }

  // -- writing

  detail(name) {
    const described = this.scenario.packets[name];
    return {
      message: this.packets.encode(described),
      data_source: this.source,
      stream: described.stream,
      session_key: described.in_session ? this.sessionKey : '',
    };
  }

  message(names) {
    return { details: names.map((name) => this.detail(name)) };
  }

  async writeOneByOne(step, headers = {}) {
    const metadata = new grpc.Metadata();
    for (const [name, value] of Object.entries(headers)) metadata.set(name, value);
    for (const name of this.scenario[step]) {
      await this.ask(this.writer, 'WriteDataPacket', { detail: this.detail(name) }, metadata);
    }
  }

  /** A client stream of `messages`; the promise is of its reply. */
  stream(messages, { halfClose }) {
    return new Promise((resolve, reject) => {
      const answered = (error, reply) => (error ? reject(error) : resolve(reply));
      const call = this.writer.WriteDataPackets(new grpc.Metadata(), this.bounds, answered);
      for (const message of messages) call.write(message);
      if (halfClose) call.end();
    });
  }

  async writeStream() {
    await this.stream(this.scenario.stream.map((names) => this.message(names)), { halfClose: true });
  }

  async writeNothing() {
    return describeError(this.ask(this.writer, 'WriteDataPacket', {}));
  }

  /** The call ends at the bad message, before the client has ended its side. */
  async writeRefusedStream() {
    const wanted = this.scenario.refused_stream;
    const bad = this.message([wanted.packet]);
    bad.details[0].data_source = wanted.data_source;
    const messages = [...wanted.messages.map((names) => this.message(names)), bad];
    return describeError(this.stream(messages, { halfClose: false }));
  }

  // -- reading

  async connect(details = {}) {
    const request = { details: { data_source: this.source, ...details } };
    return (await this.ask(this.connections, 'NewConnection', request)).connection;
  }

  async close(connection) {
    return (await this.ask(this.connections, 'CloseConnection', { connection })).success;
  }

  read(method, request) {
    return new Read(this.packets, this.reader[method](request, this.bounds));
  }

  async echoConnection() {
    const connection = await this.connect({ session_key: this.sessionKey, ...this.scenario.echoed_connection });
    const { details } = await this.ask(this.connections, 'GetConnection', { connection });
    return { ...details, closed: [await this.close(connection), await this.close(connection)] };
  }

  /** Answers with status OK that say no. */
  async askForUnknown() {
    const found = { connections: [], reads: [] };
    for (const id of this.scenario.unknown_connections) {
      const connection = { id };
      found.connections.push((await this.ask(this.connections, 'GetConnection', { connection })).details !== null);
      found.reads.push(await this.read('ReadPackets', { connection }).rest());
    }
    const request = { session_key: 'no such session' };
    found.session = (await this.ask(this.sessions, 'GetSessionInfo', request)).success;
    found.ended = (await this.ask(this.sessions, 'EndSession', request)).success;
    return found;
  }

  /** Two reads of one connection, open at once; packets are written meanwhile; closing it ends both. */
  async readPastAndLive() {
    const { counts, live } = this.scenario;
    const connection = await this.connect({ session_key: this.sessionKey });
    const packets = this.read('ReadPackets', { connection });
    const essentials = this.read('ReadEssentials', { connection });
    const found = { past: await packets.take(counts.past) };
    await this.writeOneByOne('live');
    found.live = await packets.take(live.length);
    found.essentials = await essentials.take(counts.essentials);
    found.closed = await this.close(connection);
    found.after_close = [await packets.rest(), await essentials.rest()];
    return found;
  }

  /** Ends by itself. */
  async readEssentialsWithoutSession() {
    return this.read('ReadEssentials', { connection: await this.connect() }).rest();
  }

  async readFiltered() {
    const { streams, exclude_main_stream, ...wanted } = this.scenario.filter;
    const connection = await this.connect({ session_key: this.sessionKey, streams, exclude_main_stream });
    const read = this.read('ReadDataPackets', { request: { connection, ...wanted } });
    const found = await read.take(this.scenario.counts.filtered);
    return { found, closed: await this.close(connection), after_close: await read.rest() };
  }
}

/** What grpc said when it refused the call, or that it did not. */
async function describeError(answer) {
  try {
    await answer;
  } catch (error) {
    const [accepted = null] = error.metadata.get('trackside-accepted');
    return { code: error.code, message: error.details, accepted };
  }
  return { code: 0 };
}

async function main() {
  const [target, keyTarget, scenario, source] = process.argv.slice(2);
  const client = new Client(target, keyTarget, JSON.parse(fs.readFileSync(scenario, 'utf8')), source);
  console.log(JSON.stringify(await client.run()));
  process.exit(0);
}

main();
