/**
 * Memory of ZeRO stages 0 to 3. For a small model at 1, 2 and 4 ranks: bytes a rank by category against
 * the formulas of the paper (1910.02054, section 3; fp32 AdamW, Ψ elements, N ranks). For a model whose
 * parameters, gradients and states take 1 GB: growth of resident memory, shared pages counted once,
 * against the engines' accounts.
 */
import { type Bench, type BenchOptions, type Report, rankPeer } from './lib.ts';
import type { ModelShape } from './ranks/model.ts';
import type { MemoryReport } from './ranks/zero-memory.ts';

interface Model {
  shape: ModelShape;
  /**
   * Elements of a bucket of gradients, and at stage 3 of what is gathered ahead: about a third of a layer. The
   * defaults would hold the model, and so would the windows.
   */
  bucket: number;
}

const small: Model = {
  shape: { width: 256, layers: 4, vocabulary: 4096, length: 64, rows: 1 },
  bucket: 300_000,
};
const gigabyte: Model = {
  shape: { width: 768, layers: 8, vocabulary: 8192, length: 64, rows: 1 },
  bucket: 2_500_000,
};
const stages = [0, 1, 2, 3] as const;
type Stage = (typeof stages)[number];

const categories = ['parameters', 'gradients', 'optimizer'] as const;

/** Bytes a rank. */
function formula(stage: Stage, elements: number, ranks: number) {
  const whole = 4 * elements;
  return {
    parameters: stage === 3 ? whole / ranks : whole,
    gradients: stage >= 2 ? whole / ranks : whole,
    optimizer: stage === 0 ? 2 * whole : (2 * whole) / ranks,
  };
}

async function train(
  { shape, bucket }: Model,
  stage: Stage,
  worldSize: number,
  options: BenchOptions,
): Promise<MemoryReport> {
  const args = [JSON.stringify(shape), String(stage), String(bucket)];
  const peer = await rankPeer('ranks', 'zero-memory.ts', { worldSize, args }, options);
  const report = JSON.parse(await peer.ask('report')) as MemoryReport;
  await peer.stop();
  return report;
}

async function run(options: BenchOptions): Promise<Report> {
  const figures: Report['figures'] = {};
  const show = (name: string, value: number) => {
    figures[name] = value;
    options.log(`${name} ${value.toPrecision(4)}`);
  };

  const deviations: number[] = [];
  for (const worldSize of [1, 2, 4]) {
    for (const stage of stages) {
      const name = `account ranks ${worldSize} stage ${stage}`;
      if (!name.includes(options.only)) continue;
      const { elements, account } = await train(small, stage, worldSize, options);
      const expected = formula(stage, elements, worldSize);
      for (const category of categories) {
        const bytes = account.current[category];
        deviations.push(Math.abs(bytes / expected[category] - 1));
        show(`${name}: ${category} MB`, bytes / 1e6);
        show(`${name}: ${category} over formula`, bytes / expected[category]);
      }
      for (const category of ['window', 'activations', 'workspace', 'communication'] as const) {
        show(`${name}: ${category} MB`, account.current[category] / 1e6);
      }
    }
  }

  const growths: number[] = [];
  for (const [worldSize, stage] of [[1, 0] as const, ...stages.map((one) => [2, one] as const)]) {
    const name = `1 GB ranks ${worldSize} stage ${stage}`;
    if (!name.includes(options.only)) continue;
    const { accounted, resident } = await train(gigabyte, stage, worldSize, options);
    growths.push(Math.abs(resident / accounted - 1));
    show(`${name}: accounted MB, all ranks`, accounted / 1e6);
    show(`${name}: resident growth MB, all ranks`, resident / 1e6);
  }

  const worst = (values: number[]) => (values.length > 0 ? Math.max(...values) : null);
  return {
    figures,
    aims: [
      {
        name: 'worst deviation from the formulas',
        value: worst(deviations),
        op: '<=',
        aim: 0.02,
      },
      {
        name: 'worst deviation of resident growth from the account',
        value: worst(growths),
        op: '<=',
        aim: 0.1,
      },
    ],
  };
}

export default {
  about: 'ZeRO 0 to 3: bytes by category against the formulas, resident memory against the account',
  run,
} satisfies Bench;
