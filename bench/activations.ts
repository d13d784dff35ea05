/**
 * Memory that a layer's activations take between forward and backward, bytes a token: the growth from two
 * layers to four, so that embeddings and logits do not count. Ours is what the engine holds for
 * activations and inside a run at its peak, PyTorch's what autograd keeps, eager, with its plain attention
 * and its fused one.
 */
import type { MemoryAccount } from '../src/native/index.ts';
import { type Bench, type BenchOptions, pythonPeer, type Report, rankPeer } from './lib.ts';
import type { ModelShape } from './ranks/model.ts';

const tokens = 2048;
const [few, many] = [2, 4];
const attentions = ['eager', 'sdpa'];

function cases(only: string): { name: string; shape: Omit<ModelShape, 'layers'> }[] {
  const all = (['gpt2', 'llama'] as const).flatMap((family) =>
    [384, 768].flatMap((width) =>
      [256, 1024].map((length) => ({
        name: `${family} width ${width} length ${length}`,
        shape: { family, width, length, vocabulary: 4096, rows: tokens / length },
      })),
    ),
  );
  return all.filter(({ name }) => name.includes(only));
}

async function ours(shape: ModelShape, options: BenchOptions): Promise<number> {
  const args = [JSON.stringify(shape)];
  const peer = await rankPeer('deepspeed-js', 'activations.ts', { worldSize: 1, args }, options);
  const account = JSON.parse(await peer.ask('report')) as MemoryAccount;
  await peer.stop();
  return account.peak.activations + account.peak.workspace;
}

async function theirs(
  attention: string,
  shape: ModelShape,
  options: BenchOptions,
): Promise<number | null> {
  const args = [attention, JSON.stringify(shape)];
  const peer = await pythonPeer(`torch ${attention}`, 'activations.py', args, options);
  if (!peer) return null;
  const bytes = Number(await peer.ask('report'));
  await peer.stop();
  return bytes;
}

async function run(options: BenchOptions): Promise<Report> {
  const report: Report = { figures: {}, aims: [] };
  for (const { name, shape } of cases(options.only)) {
    const growth = async (bytes: (shape: ModelShape) => Promise<number | null>) => {
      const [small, large] = [
        await bytes({ ...shape, layers: few }),
        await bytes({ ...shape, layers: many }),
      ];
      return small === null || large === null ? null : (large - small) / (many - few) / tokens;
    };
    const show = (subject: string, value: number | null) => {
      report.figures[`${name}: ${subject} bytes a token and layer`] = value;
      options.log(`${name}: ${subject} ${value === null ? 'not here' : Math.round(value)} bytes`);
    };
    const own = (await growth((one) => ours(one, options)))!;
    show('deepspeed-js', own);
    for (const attention of attentions) {
      const peer = await growth((one) => theirs(attention, one, options));
      show(`torch ${attention}`, peer);
      const value = peer === null ? null : own / peer;
      report.aims.push({ name: `${name}: share of torch ${attention}`, value, op: '<=', aim: 0.5 });
    }
  }
  return report;
}

export default {
  about: 'activation memory of a layer, bytes a token, against what PyTorch keeps',
  run,
} satisfies Bench;
