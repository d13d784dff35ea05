/**
 * Protocol buffers, written. A message is a list of byte chunks, so that large tensors are referred to
 * and never copied; fields are written in ascending order, as the official libraries do.
 */
import { toBigInt } from '../tensor.ts';

/** Chunks above this size are referred to; smaller ones are copied together. */
const referFrom = 512;

const utf8 = new TextEncoder();

export class WireWriter {
  /** Bytes written so far. */
  length = 0;
  private readonly done: Uint8Array[] = [];
  private open = new Uint8Array(128);
  private used = 0;

  /** The message as chunks in order. */
  chunks(): Uint8Array[] {
    this.close();
    return this.done;
  }

  int(field: number, value: number): void {
    this.tag(field, 0);
    this.signed(value);
  }

  float(field: number, value: number): void {
    this.tag(field, 5);
    this.reserve(4);
    new DataView(this.open.buffer).setFloat32(this.used, value, true);
    this.advance(4);
  }

  data(field: number, bytes: Uint8Array): void {
    this.tag(field, 2);
    this.varint(bytes.length);
    this.append(bytes);
  }

  string(field: number, text: string): void {
    this.data(field, utf8.encode(text));
  }

  message(field: number, write: (child: WireWriter) => void): void {
    const child = new WireWriter();
    write(child);
    this.tag(field, 2);
    this.varint(child.length);
    for (const chunk of child.chunks()) this.append(chunk);
  }

  stringEntry(field: number, key: string, value: string): void {
    this.message(field, (entry) => {
      entry.string(1, key);
      entry.string(2, value);
    });
  }

  private tag(field: number, wire: number): void {
    this.varint(field * 8 + wire);
  }

  /** Negative numbers take ten bytes: varints are unsigned 64-bit. */
  private signed(value: number): void {
    if (value >= 0 && value <= Number.MAX_SAFE_INTEGER) {
      this.varint(value);
      return;
    }
    let rest = BigInt.asUintN(64, toBigInt(value));
    while (rest >= 0x80n) {
      this.byte(Number(rest & 0x7fn) | 0x80);
      rest >>= 7n;
    }
    this.byte(Number(rest));
  }

  private varint(value: number): void {
    let rest = value;
    while (rest >= 0x80) {
      this.byte((rest % 0x80) | 0x80);
      rest = Math.floor(rest / 0x80);
    }
    this.byte(rest);
  }

  private byte(value: number): void {
    this.reserve(1);
    this.open[this.used] = value;
    this.advance(1);
  }

  private append(bytes: Uint8Array): void {
    if (bytes.length >= referFrom) {
      this.close();
      this.done.push(bytes);
      this.length += bytes.length;
      return;
    }
    this.reserve(bytes.length);
    this.open.set(bytes, this.used);
    this.advance(bytes.length);
  }

  private advance(count: number): void {
    this.used += count;
    this.length += count;
  }

  private reserve(count: number): void {
    if (this.used + count <= this.open.length) return;
    const larger = new Uint8Array(Math.max(2 * this.open.length, this.used + count));
    larger.set(this.open.subarray(0, this.used));
    this.open = larger;
  }

  private close(): void {
    if (this.used === 0) return;
    this.done.push(this.open.subarray(0, this.used));
    this.open = new Uint8Array(128);
    this.used = 0;
  }
}
