/** One rank of `trainRanks`: a worker thread. */
import { parentPort, workerData } from 'node:worker_threads';
import type { StepMetrics } from '../../hooks/index.ts';
import type { CommStats, MemoryAccount } from '../../native/index.ts';
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

/** The strategy under test, watched. */
const watched = {
  name: 'deepspeed',
  apply(given: StrategyContext) {
    context = given;
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
} catch (thrown) {
  const { code, message } = thrown as { code?: string; message: string };
  error = { code: code ?? 'none', message };
}
const { state } = trainer;
const result = { parameters, metrics, state, memory, stats, lines, warnings, gradientPeaks };
parentPort!.postMessage({ ...result, ...(error && { error }) });
await trainer.close();
