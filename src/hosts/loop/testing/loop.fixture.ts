/** One rank of initialize.ranks.test.ts: its loss is ½‖w − t‖², with a target t of its own. */
import type { World } from '../../../trainer/testing/run-ranks.ts';
import { initialize } from '../initialize.ts';

export interface LoopTask {
  deepspeed: Record<string, unknown>;
  steps: number;
}

const shape = [6, 4];
const count = 24;

/** The target of a rank. */
export const targetOf = (rank: number) =>
  Float32Array.from({ length: count }, (_, i) => Math.sin(i * 1.3 + rank));

/** @returns the parameters after the last step */
export async function run({ deepspeed, steps }: LoopTask, world: World): Promise<Float32Array> {
  const values = new Float32Array(count);
  const target = targetOf(world.rank);
  const engine = await initialize({
    parameters: { w: { values, shape } },
    deepspeed,
    runtime: { world, threads: 1 },
  });
  for (let step = 0; step < steps; step += 1) {
    engine.backward({ w: values.map((value, i) => value - target[i]!) });
    engine.step();
  }
  await engine.close();
  return values;
}
