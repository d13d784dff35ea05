/** One rank of `trainRanks`. */
import type { StepMetrics } from '../../hooks/index.ts';
import {
  type CommStats,
  loadAddon,
  type MemoryAccount,
  type NativeEngine,
  type SwapFile,
  type SwapStats,
} from '../../native/index.ts';
import { AutoModelForCausalLM } from '../../transformers.ts';
import { applyDeepSpeed } from '../../strategies/deepspeed.ts';
import type { StrategyContext } from '../../strategies/plugin.ts';
import { Trainer } from '../trainer.ts';
import type { World } from './run-ranks.ts';
import type { RankResult, RankTask } from './train-ranks.ts';

/** Of the run under way: a thread plays one at a time. */
let lines: string[] = [];
let warnings: string[] = [];
let swapFiles: SwapFile[] = [];
console.log = (line: string) => lines.push(line);
process.stderr.write = (text: string | Uint8Array) => {
  lines.push(...String(text).trimEnd().split('\n'));
  return true;
};
process.emitWarning = (warning: string | Error) => void warnings.push(String(warning));
const addon = loadAddon();
const { createSwapFile } = addon;
addon.createSwapFile = (...args) => {
  const file = createSwapFile(...args);
  swapFiles.push(file);
  return file;
};

// Rows of a short cycle, each from another start: something to learn within a few steps.
const rowsOf = (samples: number, positions: number) =>
  Array.from({ length: samples }, (_, row) => {
    const length = Math.floor((positions * (9 + (row % 8))) / 16);
    return { input_ids: Array.from({ length }, (_, i) => (row * 7 + i * 5) % 61) };
  });

/** Notes how many works each transfer and each optimizer step waits for. */
function watchSwapping({ engine }: StrategyContext, swapWaits: string[]): void {
  const { swapIn, swapOut, optimizerStep } = engine;
  const watched: Pick<NativeEngine, 'swapIn' | 'swapOut' | 'optimizerStep'> = {
    swapIn(file, pieces, after = []) {
      swapWaits.push(`in ${after.length}`);
      return swapIn.call(engine, file, pieces, after);
    },
    swapOut(file, pieces, norm, after = []) {
      swapWaits.push(`out ${after.length}`);
      return swapOut.call(engine, file, pieces, norm, after);
    },
    optimizerStep(step, after = []) {
      swapWaits.push(`step ${after.length}`);
      return optimizerStep.call(engine, step, after);
    },
  };
  for (const [name, value] of Object.entries(watched))
    Object.defineProperty(engine, name, { value });
}

function swapStats(): SwapStats {
  const sum = { bytesRead: 0, bytesWritten: 0, requests: 0, submissions: 0, mostUnderWay: 0 };
  for (const stats of swapFiles.map((file) => file.stats())) {
    for (const name of Object.keys(sum) as (keyof SwapStats)[]) sum[name] += stats[name];
  }
  return sum;
}

function gradientPeak({ claims, layout }: StrategyContext, parameter: string): number {
  const { buffer, byteOffset } = claims.owner('gradients')!.location(parameter);
  const { count } = layout.byName.get(parameter)!;
  const gradient = new Float32Array(buffer.view(), byteOffset, count);
  return gradient.reduce((peak, value) => Math.max(peak, Math.abs(value)), 0);
}

export async function run(
  {
    args,
    samples = 64,
    positions = 16,
    layers = 2,
    seeds,
    freeze,
    resumeFromCheckpoint,
    saveAs,
    logSummary,
    apart = false,
  }: RankTask,
  world: World,
): Promise<RankResult> {
  [lines, warnings, swapFiles] = [[], [], []];
  const metrics: StepMetrics[] = [];
  const gradientPeaks: number[] = [];
  const swapWaits: string[] = [];
  let context: StrategyContext | undefined;
  const model = AutoModelForCausalLM.fromConfig(
    {
      model_type: 'gpt2',
      vocab_size: 61,
      n_positions: positions,
      n_embd: 16,
      n_layer: layers,
      n_head: 2,
      embd_pdrop: 0,
      attn_pdrop: 0,
      resid_pdrop: 0,
    },
    seeds && { seed: seeds[world.rank]! },
  );
  if (freeze) model.freeze((name) => name.startsWith(freeze));
  /** The strategy under test, watched. */
  const watched = {
    name: 'deepspeed',
    apply(given: StrategyContext) {
      context = given;
      watchSwapping(given, swapWaits);
      applyDeepSpeed(given);
      given.lifecycle.tap('metrics', 'observe', 'test.gradientPeak', () => {
        gradientPeaks.push(
          Math.max(...given.layout.slots.map(({ name }) => gradientPeak(given, name))),
        );
      });
    },
  };
  const dataset = rowsOf(samples, positions);
  const trainer = new Trainer({
    model,
    trainDataset: { length: dataset.length, get: (index) => dataset[index]! },
    args: {
      outputDir: args.outputDir!,
      maxSteps: 3,
      perDeviceTrainBatchSize: 4,
      learningRate: 1e-2,
      saveStrategy: 'no',
      reportTo: [],
      disableTqdm: true,
      ...args,
      ...(args.strategy === undefined && args.deepspeed && { strategy: watched }),
    },
    callbacks: [{ onStepEnd: ({ metrics: step }) => void metrics.push(step) }],
    runtime: { world, threads: 1, apart },
  });

  let error: RankResult['error'];
  let memory: MemoryAccount | undefined;
  let stats: CommStats[] = [];
  let swapped: RankResult['swapped'] | undefined;
  const parameters = new Map<string, Float32Array>();
  try {
    await trainer.train(resumeFromCheckpoint === undefined ? {} : { resumeFromCheckpoint });
    if (saveAs) {
      const event = { directory: args.outputDir!, tag: saveAs[world.rank]!, state: {} };
      await context!.lifecycle.run('saveCheckpoint', event);
    }
    if (logSummary) await trainer.logSummary();
    for (const { name } of model.parameters) {
      parameters.set(name, (await trainer.parameter(name)).slice());
    }
    memory = await trainer.memory();
    stats = context?.engine.commStats() ?? [];
    swapped = { stats: swapStats(), waits: swapWaits };
  } catch (thrown) {
    const { code, message } = thrown as { code?: string; message: string };
    error = { code: code ?? 'none', message };
  }
  const { state } = trainer;
  await trainer.close();
  const seen = { metrics, state, memory, stats, swapped, lines, warnings, gradientPeaks };
  return { parameters, ...seen, ...(error && { error }) } as RankResult;
}
