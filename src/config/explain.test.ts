import { describe, expect, it } from 'vitest';
import { explainConfig, readConfig, renderExplanation, resolveConfig } from './index.ts';

function explain(config: Record<string, unknown>, parameterCount?: number, worldSize = 2) {
  const resolved = resolveConfig(readConfig({ train_batch_size: 8, ...config }), { worldSize });
  return explainConfig(resolved, parameterCount === undefined ? {} : { parameterCount });
}

const shown = (paths: { path: string }[]) => paths.map(({ path }) => path);

describe('explainConfig', () => {
  it('lists effective values with their origin, and leaves out what is off', () => {
    const { values } = explain({ optimizer: { type: 'adam' }, csv_monitor: { enabled: true } });
    const origins = Object.fromEntries(values.map(({ path, origin }) => [path, origin]));
    expect(origins).toMatchObject({
      train_batch_size: 'file',
      gradient_accumulation_steps: 'computed',
      'zero_optimization.stage': 'default',
      'optimizer.type': 'file',
      'csv_monitor.job_name': 'default',
    });
    expect(shown(values)).not.toContain('tensorboard.job_name');
    expect(shown(values)).not.toContain('zero_optimization.stage3_max_live_parameters');
  });

  it('says why a written key has no effect', () => {
    const { values } = explain({ zero_optimization: { stage: 1, round_robin_gradients: true } });
    const row = values.find(({ path }) => path === 'zero_optimization.round_robin_gradients');
    expect(row).toMatchObject({ value: true, origin: 'file', note: expect.any(String) });
  });

  it('warns when a default exceeds the model, and only where it matters', () => {
    const stage2 = { zero_optimization: { stage: 2 } };
    const warnings = explain(stage2, 1e6).warnings;
    expect(warnings).toHaveLength(2);
    expect(warnings[0]).toContain(
      'the default of zero_optimization.reduce_bucket_size, 500,000,000 elements',
    );
    expect(explain(stage2, 1e6, 1).warnings).toEqual([]);
    expect(explain(stage2).warnings).toEqual([]);
    const small = {
      zero_optimization: { stage: 2, reduce_bucket_size: 1e5, allgather_bucket_size: 1e5 },
    };
    expect(explain(small, 1e6).warnings).toEqual([]);
    const written = {
      zero_optimization: { stage: 2, reduce_bucket_size: 2e6, allgather_bucket_size: 1e5 },
    };
    expect(explain(written, 1e6).warnings[0]).toMatch(/^zero_optimization.reduce_bucket_size/);
  });

  it("warns where stage 3's limits are above the model, and shows them at stage 3 only", () => {
    const stage3 = (keys: object = {}) =>
      explain({ zero_optimization: { stage: 3, reduce_bucket_size: 1e5, ...keys } }, 1e6);
    expect(shown(stage3().values)).toContain('zero_optimization.stage3_max_live_parameters');
    expect(stage3().warnings).toEqual([
      expect.stringContaining('all parameters are gathered when a forward pass begins'),
      expect.stringContaining('no parameter is released between its forward and its backward'),
    ]);
    expect(stage3({ stage3_max_live_parameters: 5e5 }).warnings).toEqual([]);
    const near = { stage3_prefetch_bucket_size: 1e5, stage3_max_reuse_distance: 1 };
    expect(stage3(near).warnings).toEqual([]);
    expect(stage3({ ...near, stage3_param_persistence_threshold: 1e6 }).warnings).toEqual([
      expect.stringContaining('every rank keeps all parameters'),
    ]);
  });

  it('says what reduce_at_boundary costs, and where it changes nothing', () => {
    const zero = {
      stage: 2,
      reduce_at_boundary: true,
      reduce_bucket_size: 1e5,
      allgather_bucket_size: 1e5,
    };
    const told = (keys: object, parameters?: number) =>
      explain({ zero_optimization: { ...zero, ...keys } }, parameters).warnings;
    const accumulating = { train_micro_batch_size_per_gpu: 2, zero_optimization: zero };
    expect(explain(accumulating, 1e6).warnings).toEqual([
      'zero_optimization.reduce_at_boundary keeps whole gradients on every rank, 4 bytes an element instead of 4/2: 4,000,000 bytes',
    ]);
    expect(told({})).toEqual([expect.stringContaining('changes nothing without accumulation')]);
    expect(told({ stage: 1 })).toEqual([]);
    expect(told({ reduce_at_boundary: false }, 1e6)).toEqual([]);
  });

  it('renders one line per value, warnings last', () => {
    const explanation = explain({ zero_optimization: { stage: 1 } }, 1e6);
    const lines = renderExplanation(explanation);
    expect(lines.filter((line) => line.startsWith('warning: '))).toHaveLength(2);
    expect(lines.at(-1)).toContain('allgather_bucket_size');
    expect(lines.find((line) => line.startsWith('zero_optimization.stage '))).toMatch(/ 1 +file$/);
  });
});
