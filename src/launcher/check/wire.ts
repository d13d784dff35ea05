/** A connection between two agents, of which exactly as many bytes are read as are wanted. */
import type { Socket } from 'node:net';

interface Wanted {
  target: Uint8Array;
  filled: number;
  resolve: () => void;
  reject: (error: Error) => void;
}

export class Wire {
  readonly #socket: Socket;
  readonly #arrived: Buffer[] = [];
  #wanted: Wanted | null = null;
  #broken: Error | null = null;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => {
      this.#arrived.push(chunk);
      this.#serve();
    });
    socket.on('error', (error) => this.#break(error));
    socket.on('close', () => this.#break(new Error('the connection ended')));
  }

  /** Whether somebody waits for bytes of the other end. */
  get isWaiting(): boolean {
    return this.#wanted !== null;
  }

  /** The bytes must stay as they are until the other end has them. */
  write(bytes: Uint8Array): void {
    if (bytes.byteLength > 0) this.#socket.write(bytes);
  }

  /** Fills `target`. One read at a time. */
  read(target: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#wanted = { target, filled: 0, resolve, reject };
      this.#serve();
      if (this.#broken !== null) this.#break(this.#broken);
    });
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #serve(): void {
    const wanted = this.#wanted;
    if (wanted === null) return;
    const { target } = wanted;
    while (wanted.filled < target.byteLength && this.#arrived.length > 0) {
      const chunk = this.#arrived[0]!;
      const part = chunk.subarray(0, target.byteLength - wanted.filled);
      target.set(part, wanted.filled);
      wanted.filled += part.byteLength;
      if (part.byteLength === chunk.byteLength) this.#arrived.shift();
      else this.#arrived[0] = chunk.subarray(part.byteLength);
    }
    if (wanted.filled < target.byteLength) return;
    this.#wanted = null;
    wanted.resolve();
  }

  #break(error: Error): void {
    this.#broken ??= error;
    const wanted = this.#wanted;
    this.#wanted = null;
    wanted?.reject(this.#broken);
  }
}
