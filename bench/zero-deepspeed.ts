/**
 * ZeRO stages 1 to 3 beside DeepSpeed's own on its CPU accelerator: the same GPT-2 of 51 million parameters, two ranks of one
 * thread, the same buckets and limits. Seconds of a step by turns, and growth of resident memory over both ranks.
 */
import {
  type Bench,
  type BenchOptions,
  measure,
  pythonPeer,
  rankPeer,
  type Report,
} from './lib.ts';
import type { ModelShape } from './ranks/model.ts';
import type { MemoryReport } from './ranks/zero-memory.ts';

const shape: ModelShape = { width: 768, layers: 6, vocabulary: 8192, length: 256, rows: 2 };
const bucket = 2_500_000;
const worldSize = 2;

async function run(options: BenchOptions): Promise<Report> {
  const figures: Report['figures'] = {};
  const times: (number | null)[] = [];
  const memory: (number | null)[] = [];
  for (const stage of [1, 2, 3]) {
    const name = `stage ${stage}`;
    if (!name.includes(options.only)) continue;
    const words = [JSON.stringify(shape), String(stage), String(bucket)];
    const ours = await rankPeer(name, 'zero-memory.ts', { worldSize, args: words }, options);
    const args = [String(worldSize), '1', String(stage), JSON.stringify(shape)];
    const theirs = await pythonPeer(`DeepSpeed, ${name}`, 'zero_deepspeed.py', args, options);
    const peers = theirs ? [ours, theirs] : [ours];
    const measured = await measure(peers, { warmup: 1, rounds: 5 });
    for (const [peer, { median, spread }] of measured) {
      figures[`${peer}: step ms`] = median * 1e3;
      figures[`${peer}: spread`] = spread;
    }
    const { resident } = JSON.parse(await ours.ask('report')) as MemoryReport;
    const other = theirs ? Number(await theirs.ask('memory')) : null;
    figures[`${name}: resident MB, both ranks`] = resident / 1e6;
    figures[`DeepSpeed, ${name}: resident MB, both ranks`] = other === null ? null : other / 1e6;
    await Promise.all(peers.map((peer) => peer.stop()));
    memory.push(other === null ? null : resident / other);
    const peer = theirs && measured.get(theirs.name)!.median;
    times.push(peer === null ? null : measured.get(ours.name)!.median / peer);
  }
  const worst = (values: (number | null)[]) => {
    const known = values.filter((value) => value !== null);
    return known.length > 0 ? Math.max(...known) : null;
  };
  return {
    figures,
    aims: [
      { name: 'step over that of DeepSpeed, worst stage', value: worst(times), op: '<=', aim: 1 },
      {
        name: 'memory over that of DeepSpeed, worst stage',
        value: worst(memory),
        op: '<=',
        aim: 1,
      },
    ],
  };
}

export default {
  about: "ZeRO 1 to 3 beside DeepSpeed's own, CPU accelerator: seconds of a step, resident memory",
  run,
} satisfies Bench;
