/** One rank of `trainRanks`: a worker thread. */
import { parentPort, workerData } from 'node:worker_threads';
import type { StepMetrics } from '../../hooks/index.ts';
import type {
  CommStats,
  MemoryAccount,
  NativeEngine,
  SwapFile,
  SwapStats,
} from '../../native/index.ts';
import { AutoModelForCausalLM } from '../../transformers.ts';
import { applyDeepSpeed } from '../../strategies/deepspeed.ts';
import type { StrategyContext } from '../../strategies/plugin.ts';
import { Trainer } from '../trainer.ts';
import type { RankResult, RankTask } from './train-ranks.ts';

const { args, world, samples, resumeFromCheckpoint, saveAs, logSummary } =
  workerData as RankTask & {
    args: { outputDir: string };
    world: { key: string; rank: number; worldSize: number };
  };

const lines: string[] = [];
console.log = (line: string) => lines.push(line);
process.stderr.write = (text: string | Uint8Array) => {
  lines.push(...String(text).trimEnd().split('\n'));
  return true;
};
const warnings: string[] = [];
process.emitWarning = (warning: string | Error) => void warnings.push(String(warning));

const model = AutoModelForCausalLM.fromConfig({
  model_type: 'gpt2',
  vocab_size: 61,
  n_positions: 16,
  n_embd: 16,
  n_layer: 2,
  n_head: 2,
  embd_pdrop: 0,
  attn_pdrop: 0,
  resid_pdrop: 0,
});
// Rows of a short cycle, each from another start: something to learn within a few steps.
const dataset = Array.from({ length: samples ?? 64 }, (_, row) => ({
  input_ids: Array.from({ length: 9 + (row % 8) }, (_, i) => (row * 7 + i * 5) % 61),
}));

let context: StrategyContext | undefined;
const gradientPeaks: number[] = [];

const swapFiles: SwapFile[] = [];
const swapWaits: string[] = [];

function watchSwapping({ addon, engine }: StrategyContext): void {
  const { createSwapFile } = addon;
  addon.createSwapFile = (...args) => {
    const file = createSwapFile(...args);
    swapFiles.push(file);
    return file;
  };
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

/** The strategy under test, watched. */
const watched = {
  name: 'deepspeed',
  apply(given: StrategyContext) {
    context = given;
    watchSwapping(given);
    applyDeepSpeed(given);
    given.lifecycle.tap('metrics', 'observe', 'test.gradientPeak', () => {
      gradientPeaks.push(Math.max(...model.parameters.map(({ name }) => gradientPeak(name))));
    });
  },
};

function gradientPeak(parameter: string): number {
  const { buffer, byteOffset } = context!.claims.owner('gradients')!.location(parameter);
  const { count } = context!.layout.byName.get(parameter)!;
  const gradient = new Float32Array(buffer.view(), byteOffset, count);
  return gradient.reduce((peak, value) => Math.max(peak, Math.abs(value)), 0);
}

const metrics: StepMetrics[] = [];
const trainer = new Trainer({
  model,
  trainDataset: { length: dataset.length, get: (index) => dataset[index]! },
  args: {
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
  runtime: { world, threads: 1 },
});

let error: RankResult['error'];
let memory: MemoryAccount | undefined;
let stats: CommStats[] = [];
let swapped: RankResult['swapped'] | undefined;
const parameters = new Map<string, Float32Array>();
try {
  await trainer.train(resumeFromCheckpoint === undefined ? {} : { resumeFromCheckpoint });
  if (saveAs) {
    const tag = saveAs[world.rank]!;
    await context!.lifecycle.run('saveCheckpoint', { directory: args.outputDir, tag, state: {} });
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
const seen = { metrics, state, memory, stats, swapped, lines, warnings, gradientPeaks };
const result = { parameters, ...seen };
parentPort!.postMessage({ ...result, ...(error && { error }) });
await trainer.close();
