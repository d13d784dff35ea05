/**
 * Tokens per second of a whole training step (forward, backward, reduction, AdamW) of GPT-2 and Llama
 * shapes against PyTorch and transformers, with fused attention, eager and through torch.compile
 * (inductor); DDP over gloo at two ranks. All use two cores: one rank of two threads, or two ranks of one.
 * Beside it the share of the processor's arithmetic that the step's own flops make up (model FLOPs
 * utilisation, Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
 */
import {
  type Bench,
  type BenchOptions,
  limitPeer,
  measure,
  type Peer,
  pythonPeer,
  type Report,
  rankPeer,
} from './lib.ts';
import type { ModelShape } from './ranks/model.ts';

const cores = 2;
const tokensPerMicroBatch = 2048;
const modes = ['eager', 'compile'] as const;
/** Of one pass of the limit. */
const peakFlops = cores * 2 ** 31;

interface Case {
  name: string;
  shape: ModelShape;
  worldSize: number;
}

function cases(only: string): Case[] {
  const all: Case[] = [];
  for (const family of ['gpt2', 'llama'] as const) {
    for (const [width, layers] of [
      [384, 6],
      [768, 4],
    ] as const) {
      for (const length of [256, 512, 1024]) {
        for (const worldSize of [1, 2]) {
          const rows = tokensPerMicroBatch / length;
          all.push({
            name: `${family} width ${width} length ${length} ranks ${worldSize}`,
            shape: { family, width, layers, length, vocabulary: 4096, rows },
            worldSize,
          });
        }
      }
    }
  }
  return all.filter(({ name }) => name.includes(only));
}

/**
 * Multiplications and additions that a token's step takes: 2 forward and 4 backward for every weight of a
 * product (embeddings are looked up, the tied head is a product), and for attention over the positions
 * before, half the sequence on average, products of 2 · width forward and twice that backward for both
 * scores and values. What is computed again does not count.
 */
function flopsPerToken({ family, width, layers, length, vocabulary }: ModelShape): number {
  const inner = Math.ceil((8 * width) / 3 / 64) * 64;
  const weights =
    family === 'llama' ? (2 + 2 / 3) * width ** 2 + 3 * width * inner : 12 * width ** 2;
  const attention = 6 * width * length;
  return layers * (6 * weights + attention) + 6 * vocabulary * width;
}

interface Outcome {
  rate: number | null;
  spread: number | null;
}

/** Tokens per second by subject, and flops per second of the limit; a peer that is not here is null. */
async function compare(
  { name, shape, worldSize }: Case,
  options: BenchOptions,
): Promise<{ rates: Map<string, Outcome>; peak: number }> {
  const request = JSON.stringify(shape);
  const ours = await rankPeer(
    'deepspeed-js',
    'train-gpt.ts',
    { worldSize, args: [request] },
    options,
  );
  const threads = String(cores / worldSize);
  const peers: (Peer | null)[] = [];
  for (const mode of modes) {
    const args = [String(worldSize), threads, mode, request];
    peers.push(await pythonPeer(`torch ${mode}`, 'train_gpt.py', args, options));
  }
  const limit = await limitPeer('peak', 'fma.cc', [String(cores)], options);
  const subjects = [limit, ours, ...peers.filter((peer): peer is Peer => peer !== null)];
  const times = await measure(subjects, { warmup: 2, rounds: 7 });
  await Promise.all(subjects.map((subject) => subject.stop()));
  const names = ['deepspeed-js', ...modes.map((mode) => `torch ${mode}`)];
  const rates = new Map(
    names.map((subject): [string, Outcome] => {
      const time = times.get(subject);
      const rate = time ? (worldSize * tokensPerMicroBatch) / time.median : null;
      options.log(`${name}: ${subject} ${rate === null ? 'not here' : Math.round(rate)} tokens/s`);
      return [subject, { rate, spread: time?.spread ?? null }];
    }),
  );
  // A limit is what the machine can do: its fastest pass.
  return { rates, peak: peakFlops / times.get('peak')!.min };
}

async function run(options: BenchOptions): Promise<Report> {
  const report: Report = { figures: {}, aims: [] };
  for (const one of cases(options.only)) {
    const { rates, peak } = await compare(one, options);
    report.figures[`${one.name}: peak GFLOP/s`] = peak / 1e9;
    for (const [subject, { rate, spread }] of rates) {
      const used = rate === null ? null : (rate * flopsPerToken(one.shape)) / peak;
      report.figures[`${one.name}: ${subject} tokens/s`] = rate;
      report.figures[`${one.name}: ${subject} spread`] = spread;
      report.figures[`${one.name}: ${subject} share of peak`] = used;
    }
    const ours = rates.get('deepspeed-js')!.rate!;
    const over = (mode: (typeof modes)[number], aim: number) => {
      const peer = rates.get(`torch ${mode}`)!.rate;
      const value = peer === null ? null : ours / peer;
      report.aims.push({ name: `${one.name}: over torch ${mode}`, value, op: '>=', aim });
    };
    over('eager', 1.3);
    over('compile', 1.15);
    const value = (ours * flopsPerToken(one.shape)) / peak;
    report.aims.push({ name: `${one.name}: share of peak`, value, op: '>=', aim: 0.75 });
  }
  return report;
}

export default {
  about:
    "training: tokens/s of a whole step against PyTorch's, eager and compiled, and share of peak",
  run,
} satisfies Bench;
