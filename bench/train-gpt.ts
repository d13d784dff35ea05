/**
 * Tokens per second of a whole training step (forward, backward, reduction, AdamW) of GPT-2 and Llama
 * shapes against PyTorch and transformers, with fused attention, eager and through torch.compile
 * (inductor); DDP over gloo at two ranks. All use two cores: one rank of two threads, or two ranks of one.
 * Beside it the share of the processor's arithmetic that the step's own flops make up (model FLOPs
 * utilisation, Chowdhery et al. 2022, arXiv 2204.02311, appendix B), of multiplications in vectors. With tile
 * registers (AMX) in use, the share of what these can do is shown too, and our step without them.
 *
 * One case (`--only "gpt2 width 384 length 256 ranks 1"`) takes about a minute; the first time
 * torch.compile meets a shape, up to a minute more.
 */
import { loadAddon } from '../src/native/index.ts';
import {
  type Bench,
  type BenchOptions,
  limitHere,
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

interface Comparison {
  rates: Map<string, Outcome>;
  /** Flops per second of multiplications in vectors, and in tiles. */
  peak: number;
  tilePeak: number | null;
}

async function compare(
  { name, shape, worldSize }: Case,
  options: BenchOptions,
): Promise<Comparison> {
  const request = JSON.stringify(shape);
  const threads = String(cores / worldSize);
  const ours = (label: string, isa?: string) =>
    rankPeer(label, 'train-gpt.ts', { worldSize, args: [request], ...(isa && { isa }) }, options);
  const peers: (Peer | null)[] = [await ours('deepspeed-js')];
  if (loadAddon().info().isa[0] === 'amx') peers.push(await ours('without tiles', 'avx512'));
  for (const mode of modes) {
    const args = [String(worldSize), threads, mode, request];
    peers.push(await pythonPeer(`torch ${mode}`, 'train_gpt.py', args, options));
  }
  peers.push(await limitPeer('peak', 'fma.cc', [String(cores)], options));
  peers.push(await limitHere('peak of tiles', 'amx.cc', [String(cores)], options));
  const subjects = peers.filter((peer): peer is Peer => peer !== null);
  const times = await measure(subjects, { warmup: 2, rounds: 5 });
  await Promise.all(subjects.map((subject) => subject.stop()));
  const names = ['deepspeed-js', 'without tiles', ...modes.map((mode) => `torch ${mode}`)];
  const rates = new Map(
    names.map((subject): [string, Outcome] => {
      const time = times.get(subject);
      const rate = time ? (worldSize * tokensPerMicroBatch) / time.median : null;
      options.log(`${name}: ${subject} ${rate === null ? 'not here' : Math.round(rate)} tokens/s`);
      return [subject, { rate, spread: time?.spread ?? null }];
    }),
  );
  // A limit is what the machine can do: its fastest pass.
  const fastest = (limit: string) => {
    const time = times.get(limit);
    return time ? peakFlops / time.min : null;
  };
  return { rates, peak: fastest('peak')!, tilePeak: fastest('peak of tiles') };
}

const percent = (share: number) => `${(100 * share).toFixed(0)}%`;

async function run(options: BenchOptions): Promise<Report> {
  const head = ['case', 'deepspeed-js', 'without tiles', 'torch eager', 'torch compile'];
  const table = [[...head, 'over eager (1.3)', 'over compile (1.15)', 'share of peak (0.75)']];
  const report: Report & { table: string[][] } = { figures: {}, aims: [], table };
  for (const one of cases(options.only)) {
    const { rates, peak, tilePeak } = await compare(one, options);
    const flops = flopsPerToken(one.shape);
    report.figures[`${one.name}: peak GFLOP/s`] = peak / 1e9;
    report.figures[`${one.name}: peak of tiles GFLOP/s`] = tilePeak && tilePeak / 1e9;
    const cells: string[] = [];
    for (const [subject, { rate, spread }] of rates) {
      const used = rate === null ? null : (rate * flops) / peak;
      report.figures[`${one.name}: ${subject} tokens/s`] = rate;
      report.figures[`${one.name}: ${subject} spread`] = spread;
      report.figures[`${one.name}: ${subject} share of peak`] = used;
      cells.push(
        rate === null ? '' : `${rate.toFixed(0)} (${spread!.toFixed(2)}) ${percent(used!)}`,
      );
    }
    const ours = rates.get('deepspeed-js')!.rate!;
    const verdict = (name: string, value: number | null, aim: number) => {
      report.aims.push({ name: `${one.name}: ${name}`, value, op: '>=', aim });
      const text = value === null ? 'not here' : value.toFixed(2);
      return value === null ? text : `${text} ${value >= aim ? 'met' : 'missed'}`;
    };
    const over = (mode: (typeof modes)[number], aim: number) => {
      const peer = rates.get(`torch ${mode}`)!.rate;
      return verdict(`over torch ${mode}`, peer === null ? null : ours / peer, aim);
    };
    cells.push(over('eager', 1.3), over('compile', 1.15));
    const share = verdict('share of peak', (ours * flops) / peak, 0.75);
    const ofTiles = tilePeak === null ? null : (ours * flops) / tilePeak;
    report.figures[`${one.name}: share of the peak of tiles`] = ofTiles;
    table.push([
      one.name,
      ...cells,
      ofTiles === null ? share : `${share}; of tiles ${percent(ofTiles)}`,
    ]);
  }
  return report;
}

export default {
  about:
    "training: tokens/s of a whole step against PyTorch's, eager and compiled, and share of peak",
  run,
} satisfies Bench;
