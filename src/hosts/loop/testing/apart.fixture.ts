/** One rank of apart.test.ts. */
import type { World } from '../../../trainer/testing/run-ranks.ts';
import { initialize } from '../initialize.ts';

export interface ApartTask {
  scenario: 'save' | 'save in accumulation' | 'models' | 'earlier micro batch';
  folder: string;
}

const accumulating: readonly ApartTask['scenario'][] = [
  'save in accumulation',
  'earlier micro batch',
];

export async function run({ scenario, folder }: ApartTask, world: World): Promise<void> {
  const first = world.rank === 0;
  const engine = await initialize({
    parameters: { w: new Float32Array(scenario === 'models' && !first ? 4 : 3) },
    deepspeed: {
      gradient_accumulation_steps: accumulating.includes(scenario) ? 2 : 1,
      optimizer: { type: 'SGD', params: { lr: 0.1 } },
    },
    runtime: { world: { ...world, hangTimeoutMs: 60_000 }, threads: 1 },
  });
  const gradient = { w: Float32Array.of(1, 2, 3) };
  try {
    if (scenario === 'save in accumulation') {
      if (!first) engine.backward(gradient);
      await engine.saveCheckpoint(folder);
    }
    if (scenario === 'earlier micro batch') {
      engine.backward({ w: Float32Array.of(1, first ? 2 : Number.NaN, 3) });
      engine.step();
      engine.backward(gradient);
      engine.step();
    }
    engine.backward(gradient);
    if (first) await engine.saveCheckpoint(folder);
    else engine.step();
  } finally {
    await engine.close();
  }
}
