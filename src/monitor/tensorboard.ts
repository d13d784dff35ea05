/**
 * TensorBoard event files: TFRecords of `tensorflow.Event` messages. Only the five fields that
 * scalars need are encoded: wall_time 1, step 2, file_version 3, summary 5, session_log 7.
 */
import { closeSync, fsyncSync, openSync, writeSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import type { Monitor, MonitorEvent, MonitorFolder } from './events.ts';
import { makeOutputFolder, writing } from './output-folder.ts';
import { encodeRecord } from './tfrecord.ts';

let filesOfThisProcess = 0;

/**
 * Writes a new event file into the job's folder.
 *
 * @param resumeAt the step training continues from: TensorBoard then hides what earlier files of
 *   the folder say about later steps, so that no step appears twice
 */
export function tensorBoardMonitor(folder: MonitorFolder, resumeAt?: number): Monitor {
  const directory = makeOutputFolder(folder);
  const seconds = Math.floor(Date.now() / 1000);
  const unique = `${seconds}.${hostname()}.${process.pid}.${filesOfThisProcess++}`;
  const path = join(directory, `events.out.tfevents.${unique}`);
  const descriptor = writing(path, () => openSync(path, 'ax'));
  let open = true;

  function write(events: Uint8Array[]): void {
    const bytes = Buffer.concat(events.map(encodeRecord));
    writing(path, () => {
      for (let at = 0; at < bytes.length; ) at += writeSync(descriptor, bytes, at);
    });
  }

  write([event(0, stringField(3, 'brain.Event:2'))]);
  if (resumeAt !== undefined) write([event(resumeAt + 1, messageField(7, [varintField(1, 1)]))]);

  return {
    files: [path],
    writeEvents: (events) => write(events.map(scalarEvent)),
    flush: () => writing(path, () => fsyncSync(descriptor)),
    close: () => {
      if (open) closeSync(descriptor);
      open = false;
    },
  };
}

function scalarEvent({ name, value, step }: MonitorEvent): Uint8Array {
  const simpleValue = Buffer.alloc(5);
  simpleValue[0] = tag(2, FIXED32);
  simpleValue.writeFloatLE(value, 1);
  const summaryValue = messageField(1, [stringField(1, name), simpleValue]);
  return event(step, messageField(5, [summaryValue]));
}

function event(step: number, content: Uint8Array): Uint8Array {
  const wallTime = Buffer.alloc(9);
  wallTime[0] = tag(1, FIXED64);
  wallTime.writeDoubleLE(Date.now() / 1000, 1);
  return Buffer.concat([wallTime, varintField(2, step), content]);
}

// The protocol buffer wire format: a tag (field number, wire type), then the value.
const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
const FIXED32 = 5;

const tag = (field: number, wireType: number) => (field << 3) | wireType;

function varint(value: number): number[] {
  const bytes: number[] = [];
  // Division instead of shifts: steps count samples and may pass 2^32.
  for (; value >= 0x80; value = Math.floor(value / 0x80)) bytes.push((value % 0x80) | 0x80);
  return [...bytes, value];
}

function varintField(field: number, value: number): Uint8Array {
  return Uint8Array.from([tag(field, VARINT), ...varint(value)]);
}

function stringField(field: number, value: string): Uint8Array {
  return messageField(field, [Buffer.from(value)]);
}

function messageField(field: number, parts: Uint8Array[]): Uint8Array {
  const body = Buffer.concat(parts);
  return Buffer.concat([Uint8Array.from([tag(field, BYTES), ...varint(body.length)]), body]);
}
