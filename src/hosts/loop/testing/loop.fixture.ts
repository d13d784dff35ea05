/** One rank of initialize.ranks.test.ts: its loss is ½‖w − t‖², with a target t of its own. */
import { join } from 'node:path';
import type { World } from '../../../trainer/testing/run-ranks.ts';
import { initialize } from '../initialize.ts';

export interface LoopTask {
  deepspeed: Record<string, unknown>;
  steps: number;
  /** Has a checkpoint `broken`: whole gradients are given up for another one, and not given up for this one. */
  folder?: string;
}

const shape = [6, 4];
const count = 24;

/** The target of a rank. */
export const targetOf = (rank: number) =>
  Float32Array.from({ length: count }, (_, i) => Math.sin(i * 1.3 + rank));

/** @returns the parameters after the last step */
export async function run(
  { deepspeed, steps, folder }: LoopTask,
  world: World,
): Promise<Float32Array> {
  const values = new Float32Array(count);
  const target = targetOf(world.rank);
  const engine = await initialize({
    parameters: { w: { values, shape } },
    deepspeed,
    runtime: { world, threads: 1 },
  });
  for (let step = 0; step < steps; step += 1) {
    if (folder !== undefined) {
      await engine.saveCheckpoint(folder, `step${step}`);
      engine.backward({ w: values.map((_, i) => (i % 2 === 0 ? 100 : Number.POSITIVE_INFINITY)) });
      await engine.loadCheckpoint(folder, `step${step}`);
    }
    engine.backward({ w: values.map((value, i) => value - target[i]!) });
    if (folder !== undefined) {
      const code = await engine.loadCheckpoint(join(folder, 'broken')).then(
        () => 'none',
        (error) => error.code,
      );
      if (!/CHECKPOINT_CORRUPT|PEER_FAILED/.test(code)) throw new Error(`broken: ${code}`);
    }
    engine.step();
  }
  await engine.close();
  return values;
}
