/**
 * Tokens per second of a whole GPT-2 training step (forward, backward, reduction, AdamW) against PyTorch
 * and transformers' GPT2LMHeadModel, eager, with its plain and its fused attention; DDP over gloo at
 * two ranks. Both use two cores: one rank of two threads, or two ranks of one.
 */
import {
  type Bench,
  type BenchOptions,
  measure,
  type Peer,
  pythonPeer,
  type Report,
  rankPeer,
} from './lib.ts';
import type { Gpt2Shape } from './ranks/gpt2.ts';

const cores = 2;
const tokensPerMicroBatch = 2048;
const attentions = ['eager', 'sdpa'];

interface Case {
  name: string;
  shape: Gpt2Shape;
  worldSize: number;
}

function cases(only: string): Case[] {
  const shapes = [
    { width: 384, layers: 6, length: 256 },
    { width: 384, layers: 6, length: 512 },
    { width: 768, layers: 4, length: 256 },
    { width: 768, layers: 4, length: 512 },
  ];
  return shapes
    .flatMap(({ width, layers, length }) =>
      [1, 2].map((worldSize) => ({
        name: `width ${width} length ${length} ranks ${worldSize}`,
        shape: { width, layers, length, vocabulary: 4096, rows: tokensPerMicroBatch / length },
        worldSize,
      })),
    )
    .filter(({ name }) => name.includes(only));
}

/** Tokens per second by subject; a peer that is not here is null. */
async function compare(
  { name, shape, worldSize }: Case,
  options: BenchOptions,
): Promise<Map<string, { rate: number | null; spread: number | null }>> {
  const request = JSON.stringify(shape);
  const ours = await rankPeer(
    'deepspeed-js',
    'train-gpt.ts',
    { worldSize, args: [request] },
    options,
  );
  const threads = String(cores / worldSize);
  const peers: (Peer | null)[] = [];
  for (const attention of attentions) {
    const args = [String(worldSize), threads, attention, request];
    peers.push(await pythonPeer(`torch ${attention}`, 'train_gpt.py', args, options));
  }
  const subjects = [ours, ...peers.filter((peer): peer is Peer => peer !== null)];
  const times = await measure(subjects, { warmup: 2, rounds: 7 });
  await Promise.all(subjects.map((subject) => subject.stop()));
  const names = ['deepspeed-js', ...attentions.map((attention) => `torch ${attention}`)];
  return new Map(
    names.map((subject) => {
      const time = times.get(subject);
      const rate = time ? (worldSize * tokensPerMicroBatch) / time.median : null;
      options.log(`${name}: ${subject} ${rate === null ? 'not here' : Math.round(rate)} tokens/s`);
      return [subject, { rate, spread: time?.spread ?? null }];
    }),
  );
}

async function run(options: BenchOptions): Promise<Report> {
  const report: Report = { figures: {}, aims: [] };
  for (const one of cases(options.only)) {
    const rates = await compare(one, options);
    for (const [subject, { rate, spread }] of rates) {
      report.figures[`${one.name}: ${subject} tokens/s`] = rate;
      report.figures[`${one.name}: ${subject} spread`] = spread;
    }
    const peers = attentions.map((attention) => rates.get(`torch ${attention}`)!.rate);
    const fastest = Math.max(...peers.map((rate) => rate ?? 0));
    report.aims.push({
      name: `${one.name}: share of the faster torch`,
      value: peers.includes(null) ? null : rates.get('deepspeed-js')!.rate! / fastest,
      op: '>=',
      aim: 0.85,
    });
  }
  return report;
}

export default {
  about: "GPT-2 training: tokens/s of a whole step against PyTorch's",
  run,
} satisfies Bench;
