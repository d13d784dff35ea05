import { chmodSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createMonitor, type MonitorEvent } from './index.ts';
import { crc32c, decodeRecords, encodeRecord } from './tfrecord.ts';

let root: string;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'dsjs-monitor-'));
});
afterAll(() => rmSync(root, { recursive: true }));

let jobs = 0;
function sections() {
  const folder = { enabled: true, output_path: root, job_name: `job${jobs++}` };
  return { tensorboard: folder, csv_monitor: folder };
}

const losses = (steps: number[], value = 1): MonitorEvent[] =>
  steps.map((step) => ({ name: 'Train/Samples/train_loss', value: value / step, step }));

/** Fields of a protocol buffer message by number, as a reader that knows no schema sees them. */
function fields(message: Buffer): Map<number, (number | Buffer)[]> {
  const found = new Map<number, (number | Buffer)[]>();
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = message[at++]!;
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  const take = (bytes: number) => {
    at += bytes;
    return message.subarray(at - bytes, at);
  };
  while (at < message.length) {
    const tag = varint();
    const readers: Record<number, () => number | Buffer> = {
      0: varint,
      1: () => take(8).readDoubleLE(),
      2: () => take(varint()),
      5: () => take(4).readFloatLE(),
    };
    const values = found.get(tag >>> 3) ?? [];
    found.set(tag >>> 3, [...values, readers[tag & 7]!()]);
  }
  return found;
}

const nested = (message: Buffer, field: number) => fields(message).get(field)?.[0] as Buffer;

interface Decoded {
  step: number;
  version?: string;
  sessionStart?: boolean;
  name?: string;
  value?: number;
}

function decodeEvents(path: string): Decoded[] {
  return [...decodeRecords(readFileSync(path))].map((record) => {
    const event = fields(record);
    const step = event.get(2)![0] as number;
    const version = event.get(3)?.[0]?.toString();
    if (version !== undefined) return { step, version };
    if (event.has(7))
      return { step, sessionStart: fields(event.get(7)![0] as Buffer).get(1)![0] === 1 };
    const value = fields(nested(event.get(5)![0] as Buffer, 1));
    return { step, name: String(value.get(1)![0]), value: value.get(2)![0] as number };
  });
}

describe('TFRecord', () => {
  it('computes CRC-32C (RFC 3720, B.4)', () => {
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(255))).toBe(0x62a8ab43);
    expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
  });

  it('reads back what it wrote, and notices every changed byte', () => {
    const records = fc.array(fc.uint8Array({ maxLength: 40 }), { minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(records, fc.nat(), fc.integer({ min: 1, max: 255 }), (data, position, flip) => {
        const file = Buffer.concat(data.map(encodeRecord));
        expect([...decodeRecords(file)].map((record) => [...record])).toEqual(
          data.map((d) => [...d]),
        );
        file[position % file.length]! ^= flip;
        expect(() => [...decodeRecords(file)]).toThrow(RangeError);
      }),
    );
  });

  it('stops at a record that a kill cut off', () => {
    const whole = encodeRecord(Buffer.from('first'));
    const cut = encodeRecord(Buffer.from('second')).subarray(0, 15);
    expect([...decodeRecords(Buffer.concat([whole, cut]))].map(String)).toEqual(['first']);
  });
});

describe('TensorBoard', () => {
  it('writes a version, then scalars with name, float value and step', () => {
    const monitor = createMonitor(
      { ...sections(), csv_monitor: { ...sections().csv_monitor, enabled: false } },
      0,
    );
    const far = 3 * 2 ** 32 + 5;
    monitor.writeEvents([{ name: 'Train/Samples/lr', value: 0.1, step: far }]);
    monitor.close();
    expect(decodeEvents(monitor.files[0]!)).toEqual([
      { step: 0, version: 'brain.Event:2' },
      { step: far, name: 'Train/Samples/lr', value: Math.fround(0.1) },
    ]);
  });

  it('on resume opens another file that hides the later steps of the earlier ones', () => {
    const folder = sections();
    const before = createMonitor(folder, 0);
    before.writeEvents(losses([8, 16, 24]));
    before.close();
    const after = createMonitor(folder, 0, 16);
    after.close();
    const [path] = after.files;
    expect(path).not.toBe(before.files[0]);
    expect(decodeEvents(path!)[1]).toEqual({ step: 17, sessionStart: true });
  });
});

describe('CSV', () => {
  const rows = (path: string) => readFileSync(path, 'utf8');
  const csvOf = (folder: ReturnType<typeof sections>) =>
    createMonitor({ ...folder, tensorboard: { ...folder.tensorboard, enabled: false } }, 0);

  it("has DeepSpeed's folder, file name and header", () => {
    const folder = sections();
    const monitor = csvOf(folder);
    monitor.writeEvents([...losses([8, 16]), { name: 'Train/Samples/lr', value: 1e-4, step: 8 }]);
    monitor.flush();
    const directory = join(root, folder.csv_monitor.job_name);
    expect(readdirSync(directory).sort()).toEqual([
      'Train_Samples_lr.csv',
      'Train_Samples_train_loss.csv',
    ]);
    expect(rows(join(directory, 'Train_Samples_train_loss.csv'))).toBe(
      'step,train_loss\n8,0.125\n16,0.0625\n',
    );
  });

  it('equals an uninterrupted file after a kill and a resume', () => {
    const straight = csvOf(sections());
    straight.writeEvents(losses([8, 16, 24, 32]));

    const folder = sections();
    const killed = csvOf(folder);
    killed.writeEvents(losses([8, 16, 24]));
    const [path] = killed.files;
    writeFileSync(path!, `${rows(path!)}3`); // a row cut off in the middle
    const resumed = createMonitor(
      { ...folder, tensorboard: { ...folder.tensorboard, enabled: false } },
      0,
      16,
    );
    resumed.writeEvents(losses([24, 32]));
    expect(rows(path!)).toBe(rows(straight.files[0]!));
  });

  it('keeps the file of an earlier run beside that of a new one', () => {
    const folder = sections();
    csvOf(folder).writeEvents(losses([8]));
    const second = csvOf(folder);
    second.writeEvents(losses([8], 2));
    const [path] = second.files;
    expect(rows(path!)).toBe('step,train_loss\n8,0.25\n');
    expect(rows(path!.replace('.csv', '.previous.csv'))).toBe('step,train_loss\n8,0.125\n');
  });
});

it('writes on rank 0 only', () => {
  const folder = sections();
  const monitor = createMonitor(folder, 1);
  monitor.writeEvents(losses([8]));
  expect(monitor.files).toEqual([]);
  expect(readdirSync(root)).not.toContain(folder.csv_monitor.job_name);
});

it('names an output folder that cannot be made', () => {
  const path = join(root, 'a-file');
  writeFileSync(path, '');
  chmodSync(path, 0o444);
  const folder = { enabled: true, output_path: path, job_name: 'job' };
  expect(() => createMonitor({ tensorboard: folder, csv_monitor: folder }, 0)).toThrowError(
    expect.objectContaining({
      code: 'OUTPUT_NOT_WRITABLE',
      message: expect.stringContaining('a-file'),
    }),
  );
});
