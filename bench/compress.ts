/**
 * One-bit compression: GB/s of the three loops of the all-reduce on one thread, as it runs them, each
 * against a loop with the same reads and writes. Bytes an element: packing reads vector and error and
 * writes error and bits; averaging (and packing again) reads every rank's bits and the error and writes
 * error and bits; unpacking reads bits and writes the vector. The arrays are far larger than the caches.
 */
import { type Bench, type BenchOptions, limitPeer, measure, type Report } from './lib.ts';

const elements = 32 << 20;
const ranks = 4;
const bytesPerElement = {
  pack: 4 + 4 + 4 + 1 / 8,
  average: ranks / 8 + 4 + 4 + 1 / 8,
  unpack: 1 / 8 + 4,
};

async function run(options: BenchOptions): Promise<Report> {
  const program = await limitPeer(
    'loops',
    'compress.cc',
    [String(elements), String(ranks)],
    options,
  );
  const names = Object.keys(bytesPerElement) as (keyof typeof bytesPerElement)[];
  const times = await measure(
    names
      .flatMap((name) => [name, `${name} limit`])
      .map((name) => ({ name, run: () => program.run(name) })),
    { rounds: 11 },
  );
  await program.stop();
  const report: Report = { figures: { elements, ranks }, aims: [] };
  for (const name of names) {
    const [own, limit] = [times.get(name)!, times.get(`${name} limit`)!];
    const bytes = bytesPerElement[name] * elements;
    report.figures[`${name} GB/s`] = bytes / own.median / 1e9;
    report.figures[`${name} spread`] = own.spread;
    report.figures[`${name} limit GB/s`] = bytes / limit.median / 1e9;
    report.figures[`${name} limit spread`] = limit.spread;
    report.aims.push({
      name: `${name}: share of the limit`,
      value: limit.median / own.median,
      op: '>=',
      aim: 0.8,
    });
  }
  return report;
}

export default {
  about: 'one-bit compression: GB/s of packing, averaging and unpacking against the same traffic',
  run,
} satisfies Bench;
