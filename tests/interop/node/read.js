'use strict';

/** An open read: packets in the scenario's words by their streams. */
class Read {
  constructor(packets, call) {
    this.packets = packets;
    this.replies = call[Symbol.asyncIterator]();
    this.pending = [];
  }

  async take(count) {
    const found = {};
    for (let i = 0; i < count; i++) {
      const response = await this.next();
      if (response === null) throw new Error(`the server ended the call after ${i} of ${count} packets`);
      await this.add(found, response);
    }
    return found;
  }

  /** What still comes until the server ends the call, and with which code. */
  async rest() {
    const found = {};
    try {
      for (let response = await this.next(); response !== null; response = await this.next()) {
        await this.add(found, response);
      }
    } catch (error) {
      if (error.code === undefined) throw error;
      return { packets: found, code: error.code };
    }
    return { packets: found, code: 0 };
  }

  /** Null when the server has ended the call with OK; throws what grpc throws when otherwise. */
  async next() {
    while (this.pending.length === 0) {
      const { value, done } = await this.replies.next();
      if (done) return null;
      this.pending = value.response;
    }
    return this.pending.shift();
  }

  /** Packets have an order within their stream only. */
  async add(found, response) {
    (found[response.stream] ??= []).push(await this.packets.describe(response));
  }
}

module.exports = { Read };
