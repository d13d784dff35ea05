/** The loop host under the suite that every host passes. */
import { hostConformance } from '../conformance.case.ts';
import { initialize } from './initialize.ts';

hostConformance({
  name: 'loop',
  needs: ['gradients', 'optimizerStep'],
  offers: new Set(['checkpoint']),
  async train({ plugin, deepspeed, steps, microBatches, saveTo, resumeFrom }) {
    const w = Float32Array.from({ length: 40 }, (_, i) => Math.sin(i));
    const b = Float32Array.from({ length: 8 }, (_, i) => Math.cos(i));
    const engine = await initialize({
      parameters: { w: { values: w, shape: [5, 8] }, b: { values: b, weightDecay: false } },
      strategy: plugin,
      deepspeed,
      runtime: { threads: 1 },
    });
    try {
      if (resumeFrom) await engine.loadCheckpoint(resumeFrom);
      while (engine.globalSteps < steps) {
        const { globalSteps: step } = engine;
        for (let micro = 0; micro < microBatches; micro += 1) {
          // The gradient of half the squared distance from a moving target.
          const target = Math.sin(step * microBatches + micro);
          const loss = w.reduce((sum, value) => sum + (value - target) ** 2 / 2, 0);
          const of = (values: Float32Array) => values.map((value) => value - target);
          engine.backward({ w: of(w), b: of(b) }, loss);
          engine.step();
        }
      }
      if (saveTo) await engine.saveCheckpoint(saveTo);
    } finally {
      await engine.close();
    }
  },
});
