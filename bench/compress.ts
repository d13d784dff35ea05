/**
 * Compression: GB/s of its loops on one thread against loops with the same reads and writes. The arrays are far larger
 * than the caches. Of one-bit compression the three loops of the all-reduce, as it runs them: packing reads vector and
 * error and writes error and bits; averaging (and packing again) reads every rank's bits and the error and writes error
 * and bits; unpacking reads bits and writes the vector. Of compressed gradients everything that a rank does beside
 * sending, in one call of the engine by a rank that is alone, and so packs, adds up, packs again and unpacks all of it.
 */
import { type CompressedTensor, type GradientCompression, loadAddon } from '../src/native/index.ts';
import {
  type Bench,
  type BenchOptions,
  limitPeer,
  measure,
  type Report,
  type Subject,
  timed,
} from './lib.ts';

const elements = 32 << 20;
const ranks = 4;
/** A row or column of each gradient matrix. */
const side = 2048;
const bytesPerElement = {
  pack: 4 + 4 + 4 + 1 / 8,
  average: ranks / 8 + 4 + 4 + 1 / 8,
  unpack: 1 / 8 + 4,
  // x and error in, x out, values; values over to the server; x, values, error; values, error in and out, values; x.
  int8: 13 + 2 + 9 + 10 + 5,
  // x and error in, x out; x to error; zeros to x. Samples and pairs are few.
  topk: 12 + 8 + 4,
  // x and error in, x out, and to the first factor; x to the second; x to error; x. The factors are small.
  powersgd: 12 + 4 + 8 + 4,
};
const gradientKinds: GradientCompression[] = [
  { type: 'int8', block: 256 },
  { type: 'topk', ratio: 0.01 },
  { type: 'powersgd', rank: 4 },
];

/** What a rank does with gradients of square matrices: one call each. */
function gradientSubjects(): { subjects: Subject[]; stop: () => void } {
  const communicator = loadAddon().createCommunicator({ backend: 'solo' });
  const engine = loadAddon().createEngine({ communicator, threads: 1 });
  const vector = (count: number) => {
    const buffer = engine.allocate(count * 4, { category: 'gradients' });
    return { buffer, byteOffset: 0, count, dtype: 'float32' } as const;
  };
  const tensors = Array.from(
    { length: elements / side ** 2 },
    (_, index): CompressedTensor => ({ offset: index * side ** 2, rows: side, columns: side }),
  );
  const [x, error] = [vector(elements), vector(elements)];
  const [xs, errors] = [x, error].map(({ buffer }) => new Float32Array(buffer.view()));
  const values = Float32Array.from({ length: elements }, (_, i) => Math.sin(i) ** 3);
  const subjects = gradientKinds.map((kind) => {
    const { id, factors } = engine.createGradientCompressor(kind, tensors);
    const factorRegion = factors === 0 ? null : vector(factors);
    return {
      name: kind.type,
      run: () => {
        xs!.set(values);
        errors!.fill(0.25);
        return timed(() => engine.waitSync(engine.compressedSum(id, x, error, factorRegion)));
      },
    };
  });
  const stop = () => {
    engine.dispose();
    communicator.dispose();
  };
  return { subjects, stop };
}

async function run(options: BenchOptions): Promise<Report> {
  const program = await limitPeer(
    'loops',
    'compress.cc',
    [String(elements), String(ranks)],
    options,
  );
  const names = (Object.keys(bytesPerElement) as (keyof typeof bytesPerElement)[]).filter((name) =>
    name.includes(options.only),
  );
  const gradients = gradientSubjects();
  const ours = new Map(gradients.subjects.map((subject) => [subject.name, subject]));
  const times = await measure(
    names.flatMap((name): Subject[] => [
      ours.get(name) ?? { name, run: () => program.run(name) },
      { name: `${name} limit`, run: () => program.run(`${name} limit`) },
    ]),
    { rounds: 11 },
  );
  await program.stop();
  gradients.stop();
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
  about: 'compression: GB/s of packing, averaging and unpacking against the same traffic',
  run,
} satisfies Bench;
