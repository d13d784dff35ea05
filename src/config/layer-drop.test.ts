import { describe, expect, it } from 'vitest';
import type { DeepSpeedError } from '../errors.ts';
import { readConfig, resolveConfig } from './index.ts';

/** Paths that the section is refused for. */
function refused(section: object): string[] {
  const raw = readConfig({ train_batch_size: 4, progressive_layer_drop: section });
  try {
    resolveConfig(raw, { worldSize: 1 });
  } catch (error) {
    const { data } = error as DeepSpeedError;
    return (data as { problems: { path: string }[] }).problems.map(({ path }) => path);
  }
  return [];
}

describe('progressive_layer_drop', () => {
  it('needs theta and gamma where it is on', () => {
    expect(refused({ enabled: true })).toEqual([
      'progressive_layer_drop.theta',
      'progressive_layer_drop.gamma',
    ]);
    expect(refused({ enabled: false })).toEqual([]);
    expect(refused({ enabled: true, theta: 1, gamma: 0 })).toEqual([]);
  });

  it.each([0, -0.5, 1.5, '0.5'])('theta %o is outside (0, 1]', (theta) => {
    expect(refused({ enabled: true, theta, gamma: 0.001 })).toEqual([
      'progressive_layer_drop.theta',
    ]);
  });
});
