/** One rank of apart.test.ts. */
import type { World } from '../../../trainer/testing/run-ranks.ts';
import { initialize } from '../initialize.ts';

export interface ApartTask {
  scenario: 'save' | 'models';
  folder: string;
}

export async function run({ scenario, folder }: ApartTask, world: World): Promise<void> {
  const first = world.rank === 0;
  const engine = await initialize({
    parameters: { w: new Float32Array(scenario === 'models' && !first ? 4 : 3) },
    optimizer: { type: 'SGD', params: { lr: 0.1 } },
    runtime: { world: { ...world, hangTimeoutMs: 60_000 }, threads: 1 },
  });
  try {
    engine.backward({ w: Float32Array.of(1, 2, 3) });
    if (first) await engine.saveCheckpoint(folder);
    else engine.step();
  } finally {
    await engine.close();
  }
}
