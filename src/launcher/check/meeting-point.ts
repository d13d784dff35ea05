/** Where agents find each other: each listens, and of two the one with the higher place connects to the other. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import type { Order } from './agent-protocol.ts';
import { Wire } from './wire.ts';

/** Order and member of the one who connects, behind the token. */
const NUMBERS_BYTES = 8;

export class MeetingPoint {
  readonly #token: Buffer;
  readonly #server: Server;
  /** By order and member: those that came, and those that are waited for. */
  readonly #came = new Map<string, Wire>();
  readonly #awaited = new Map<string, (wire: Wire) => void>();
  readonly #connecting = new Set<Socket>();
  /** The last order that is over: for it and earlier ones a connection comes too late. */
  #over = 0;

  constructor(token: string) {
    this.#token = Buffer.from(token);
    this.#server = createServer((socket) => {
      const wire = new Wire(socket);
      void this.#receive(wire).catch(() => wire.destroy());
    });
  }

  /** @returns the port */
  async listen(): Promise<number> {
    this.#server.listen(0);
    await once(this.#server, 'listening');
    return (this.#server.address() as AddressInfo).port;
  }

  /** A wire to each other member, which is put into `wires` as it comes. */
  async meet({ id, places, me }: Order, wires: (Wire | null)[]): Promise<void> {
    await Promise.all(
      places.map(async (place, member) => {
        if (member === me) return;
        wires[member] =
          member < me ? await this.#reach(place, id, me) : await this.#await(id, member);
      }),
    );
  }

  /** The order is over: who has come for it or an earlier one, or comes later, is sent away. */
  forget(id: number): void {
    this.#over = id;
    this.#awaited.clear();
    for (const socket of this.#connecting) socket.destroy(new Error('it was given up'));
    for (const [key, wire] of this.#came)
      if (Number(key.split(' ')[0]) <= id) {
        wire.destroy();
        this.#came.delete(key);
      }
  }

  async #reach({ address, port }: Order['places'][number], id: number, me: number): Promise<Wire> {
    const socket = connect({ host: address, port });
    this.#connecting.add(socket);
    try {
      await once(socket, 'connect');
    } catch (cause) {
      throw new Error(`cannot connect to ${address}: ${(cause as Error).message}`);
    } finally {
      this.#connecting.delete(socket);
    }
    const wire = new Wire(socket);
    const numbers = Buffer.alloc(NUMBERS_BYTES);
    numbers.writeUInt32LE(id, 0);
    numbers.writeUInt32LE(me, 4);
    wire.write(Buffer.concat([this.#token, numbers]));
    return wire;
  }

  #await(id: number, member: number): Promise<Wire> {
    const key = `${id} ${member}`;
    const came = this.#came.get(key);
    this.#came.delete(key);
    if (came !== undefined) return Promise.resolve(came);
    return new Promise((resolve) => this.#awaited.set(key, resolve));
  }

  async #receive(wire: Wire): Promise<void> {
    const head = Buffer.alloc(this.#token.length + NUMBERS_BYTES);
    await wire.read(head);
    const token = head.subarray(0, this.#token.length);
    if (!token.equals(this.#token)) return wire.destroy();
    const id = head.readUInt32LE(token.length);
    if (id <= this.#over) return wire.destroy();
    const key = `${id} ${head.readUInt32LE(token.length + 4)}`;
    const resolve = this.#awaited.get(key);
    this.#awaited.delete(key);
    if (resolve === undefined) this.#came.set(key, wire);
    else resolve(wire);
  }
}
