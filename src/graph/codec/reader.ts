/**
 * Protocol buffers, read field by field: a message is a run of (tag, value); a tag is
 * `field << 3 | wire type`; wire types are 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
 * Byte fields are views of the input. Every fault is MODEL_FILE_INVALID with its byte offset.
 */
import { DeepSpeedError } from '../../errors.ts';

const wireNames: Record<number, string> = { 0: 'varint', 1: 'fixed64', 2: 'bytes', 5: 'fixed32' };

/** Messages nest through subgraphs only; real models stay below 20. */
const maxDepth = 100;

const utf8 = new TextDecoder('utf-8', { fatal: true });

export class WireReader {
  /** Number of the field that `next` found. */
  field = 0;
  /** The two 32-bit halves of the last varint, unsigned. */
  low = 0;
  high = 0;
  readonly path: string;
  private wire = 0;
  private at: number;
  private spanStart = 0;
  private readonly end: number;
  private readonly bytes: Uint8Array;
  private readonly view: DataView;
  private readonly depth: number;

  /** Reads `bytes[start, end)`; `path` names the message in errors. */
  constructor(bytes: Uint8Array, path: string, start = 0, end = bytes.length, depth = 0) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.path = path;
    this.at = start;
    this.end = end;
    this.depth = depth;
    if (depth > maxDepth) throw this.fault(`messages are nested more than ${maxDepth} deep`);
  }

  /** Moves to the next field; false at the end of the message. */
  next(): boolean {
    if (this.at === this.end) return false;
    this.varint();
    if (this.high !== 0) throw this.fault('a field number is too large');
    this.field = this.low >>> 3;
    this.wire = this.low & 7;
    if (this.field === 0) throw this.fault('field number 0 does not exist');
    return true;
  }

  /** An int32, int64 or enum value; beyond 2^53 rounded to a double. */
  int(): number {
    this.expect(0);
    this.varint();
    return (this.high | 0) * 2 ** 32 + this.low;
  }

  float(): number {
    this.expect(5);
    return this.fixed(4, (at) => this.view.getFloat32(at, true));
  }

  /** A view of a bytes field. */
  data(): Uint8Array {
    this.expect(2);
    const [start, end] = this.span();
    return this.bytes.subarray(start, end);
  }

  string(): string {
    const data = this.data();
    try {
      return utf8.decode(data);
    } catch {
      throw this.fault(`field ${this.field} is not UTF-8 text`);
    }
  }

  /** A reader of a nested message, called `name` in errors. */
  message(name: string): WireReader {
    this.expect(2);
    const [start, end] = this.span();
    return new WireReader(this.bytes, `${this.path}.${name}`, start, end, this.depth + 1);
  }

  /** A key and a value, as metadata and external data locations are stored. */
  stringEntry(name: string): [key: string, value: string] {
    const entry = this.message(name);
    let key = '';
    let value = '';
    while (entry.next()) {
      if (entry.field === 1) key = entry.string();
      else if (entry.field === 2) value = entry.string();
      else entry.skip();
    }
    return [key, value];
  }

  /** Calls `take` for each varint of a repeated field, packed or single; read `low` and `high` there. */
  varints(take: () => void): void {
    this.repeated(0, () => {
      this.varint();
      take();
    });
  }

  floats(take: (value: number) => void): void {
    this.repeated(5, () => take(this.fixed(4, (at) => this.view.getFloat32(at, true))));
  }

  doubles(take: (value: number) => void): void {
    this.repeated(1, () => take(this.fixed(8, (at) => this.view.getFloat64(at, true))));
  }

  skip(): void {
    if (this.wire === 0) this.varint();
    else if (this.wire === 1) this.advance(8);
    else if (this.wire === 2) this.span();
    else if (this.wire === 5) this.advance(4);
    else throw this.fault(`wire type ${this.wire} is not used by ONNX`);
  }

  fault(message: string): DeepSpeedError {
    return new DeepSpeedError(
      'MODEL_FILE_INVALID',
      `not a valid ONNX model: ${message} (in ${this.path}, at byte ${this.at})`,
      { data: { offset: this.at, path: this.path } },
    );
  }

  private repeated(wire: number, readOne: () => void): void {
    if (this.wire === wire) {
      readOne();
      return;
    }
    this.expect(2);
    const [, end] = this.span();
    this.at = this.spanStart;
    while (this.at < end) readOne();
    if (this.at !== end) throw this.fault('a packed list ends inside an element');
  }

  /** Reads a length and steps over that many bytes. */
  private span(): [start: number, end: number] {
    this.varint();
    const length = this.high * 2 ** 32 + this.low;
    this.spanStart = this.at;
    this.advance(length);
    return [this.spanStart, this.at];
  }

  private fixed(size: number, read: (at: number) => number): number {
    const start = this.at;
    this.advance(size);
    return read(start);
  }

  private advance(length: number): void {
    if (length > this.end - this.at) {
      throw this.fault(`${length} bytes are announced and ${this.end - this.at} are left`);
    }
    this.at += length;
  }

  private varint(): void {
    let low = 0;
    let high = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      if (this.at >= this.end) throw this.fault('the message ends inside a number');
      const byte = this.bytes[this.at++]!;
      const bits = byte & 0x7f;
      if (shift < 28) low |= bits << shift;
      else if (shift === 28) {
        low |= bits << 28;
        high = bits >>> 4;
      } else high |= bits << (shift - 32);
      if (byte < 0x80) {
        this.low = low >>> 0;
        this.high = high >>> 0;
        return;
      }
    }
    throw this.fault('a number is longer than 10 bytes');
  }

  private expect(wire: number): void {
    if (this.wire !== wire) {
      const found = wireNames[this.wire] ?? `wire type ${this.wire}`;
      throw this.fault(`field ${this.field} is ${found}, expected ${wireNames[wire]}`);
    }
  }
}
