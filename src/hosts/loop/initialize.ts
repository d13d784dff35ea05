import { DeepSpeedError } from '../../errors.ts';
import { elementCount } from '../../hooks/index.ts';
import { openRuntime, type RuntimeOptions } from '../../runtime.ts';
import { ArraySession } from './array-session.ts';
import { LoopEngine } from './loop-engine.ts';
import { type LoopRequest, loopSettings, type OptimizerOption } from './settings.ts';
import type { StrategyPlugin } from '../../strategies/plugin.ts';

/** A parameter with more to say than its values. */
export interface LoopParameter {
  /** Read now, and written after every step. */
  values: Float32Array;
  /** For checkpoints and messages; default: one axis. */
  shape?: readonly number[];
  /** False: no weight decay, as for biases and norms. Default true. */
  weightDecay?: boolean;
}

/** What `initialize` takes: the loop's parameters, and the strategy that trains them. */
export interface InitializeOptions {
  /** Trainable arrays by name. Rank 0's values become those of all ranks. */
  parameters: Readonly<Record<string, Float32Array | LoopParameter>>;
  /** `ddp`, `deepspeed`, `deepspeed_stage_1`, `deepspeed_stage_2`, or a strategy object. */
  strategy?: string | StrategyPlugin;
  /** ds_config: a path or an object. */
  deepspeed?: string | Record<string, unknown>;
  /** DeepSpeed's `optimizer` section, where the config has none. */
  optimizer?: OptimizerOption;
  /** For tests and embedding: ranks as threads, number of threads. */
  runtime?: RuntimeOptions;
}

/**
 * Makes a hand-written loop distributed: gradients in, new parameter values out. Under the launcher every
 * rank calls it, with the same parameters; alone it is plain training.
 *
 * @example
 * const engine = await initialize({ parameters: { w, b }, deepspeed: './ds_config.json' });
 * for (const batch of batchesOf(engine.rank, engine.worldSize)) {
 *   engine.backward(gradientsOf(batch));
 *   engine.step();
 * }
 * await engine.close();
 */
export async function initialize(options: InitializeOptions): Promise<LoopEngine> {
  const parameters = Object.entries(options.parameters).map(([name, given]) => {
    const entry: LoopParameter = given instanceof Float32Array ? { values: given } : given;
    requireArray(name, entry);
    const shape = entry.shape ?? [entry.values.length];
    return { name, values: entry.values, shape, group: (entry.weightDecay ?? true) ? 0 : 1 };
  });
  if (parameters.length === 0) {
    throw new DeepSpeedError('ARGUMENTS_INVALID', 'initialize() got no parameters');
  }
  const request: LoopRequest = options;
  const runtime = openRuntime(options.runtime);
  try {
    const settings = loopSettings(request, runtime.run?.deepspeedConfig ?? null, runtime.worldSize);
    const session = await ArraySession.open({
      runtime,
      name: 'loop',
      parameters,
      plugin: settings.plugin,
      config: settings.config,
      optimizer: settings.recipe,
      precision: settings.precision,
    });
    const arrays = new Map(parameters.map(({ name, values }) => [name, values]));
    const engine = new LoopEngine(runtime, session, settings, arrays);
    await engine.parametersReplaced();
    return engine;
  } catch (error) {
    runtime.close(error instanceof Error ? error.message : String(error));
    throw error;
  }
}

function requireArray(name: string, { values, shape }: LoopParameter): void {
  const problem = !(values instanceof Float32Array)
    ? 'is no Float32Array'
    : values.length === 0
      ? 'is empty'
      : shape && elementCount(shape) !== values.length
        ? `has ${values.length} elements and the shape [${shape.join(', ')}]`
        : null;
  if (problem === null) return;
  throw new DeepSpeedError('ARGUMENTS_INVALID', `initialize(): the parameter ${name} ${problem}`, {
    fix: 'Give Float32Arrays by name, or { values, shape, weightDecay }.',
  });
}
