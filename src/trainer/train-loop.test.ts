import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { attemptRanks, runRanks } from './testing/run-ranks.ts';
import type { ScenarioResult, ScenarioTask } from './testing/scenario.fixture.ts';

vi.setConfig({ testTimeout: 60_000 });

let outputDir: string;
beforeEach(() => {
  outputDir = mkdtempSync(join(tmpdir(), 'deepspeed-js-'));
});
afterEach(() => rmSync(outputDir, { recursive: true, force: true }));

const fixture = new URL('./testing/scenario.fixture.ts', import.meta.url);
const play = (scenario: ScenarioTask['scenario']) =>
  runRanks<ScenarioTask, ScenarioResult>(fixture, 2, { scenario, outputDir });

const checkpoints = () => readdirSync(outputDir).filter((name) => name.startsWith('global_step'));

describe('callbacks that only one rank has', () => {
  it('evaluates and saves on all ranks what rank 0 asks for while it logs', async () => {
    const ranks = await play('onlyRank0Listens');
    expect(ranks.map(({ evaluated }) => evaluated)).toEqual([[2], [2]]);
    expect(ranks.map(({ step }) => step)).toEqual([6, 6]);
    expect(ranks.map(({ logged }) => logged)).toEqual([[1, 2, 4, 6], []]);
    expect(checkpoints()).toEqual(['global_step2']);
  });

  it.each([
    ['onlyRank1Stops', 3],
    ['stoppedBeforeTheStart', 0],
  ] as const)('stops all ranks together: %s', async (scenario, step) => {
    const ranks = await play(scenario);
    expect(ranks.map((rank) => rank.step)).toEqual([step, step]);
  });
});

it('leaves a parameter alone that the loss does not depend on', async () => {
  const [first, second] = await play('spareHead');
  expect(first!.parameters.get('spare')!.every((value) => value === 0.5)).toBe(true);
  expect(first!.parameters.get('used')!.every((value) => value !== 0.5)).toBe(true);
  expect(second!.parameters).toEqual(first!.parameters);
});

it.each([
  ['differentArguments', /outputDir: ".*0" on rank 0, ".*1" on rank 1/],
  ['differentModels', /parameter 0 is \S+ \[.*8\] on rank 0 and \S+ \[.*16\] on rank 1/],
  ['differentDatasets', /trainDataset.length: 32 on rank 0, 24 on rank 1/],
] as const)('names what the ranks do not share: %s', async (scenario, message) => {
  const ranks = await attemptRanks<ScenarioTask, ScenarioResult>(fixture, 2, {
    scenario,
    outputDir,
  });
  expect(ranks.map(({ error }) => error?.code)).toEqual(['RANKS_DIFFER', 'RANKS_DIFFER']);
  for (const { error } of ranks) expect(error!.message).toMatch(message);
  expect(checkpoints()).toEqual([]);
});

it('loads and keeps the best checkpoint of those that exist', async () => {
  await play('bestIsNotSaved');
  expect(checkpoints().toSorted()).toEqual(['global_step3', 'global_step6']);
});

it.each(['keepsTwo', 'keepsTwoInBackground'] as const)(
  'keeps the last two checkpoints by age, those of an older run included: %s',
  async (scenario) => {
    mkdirSync(join(outputDir, 'global_step99'));
    mkdirSync(join(outputDir, 'something else'));
    await play(scenario);
    expect(readdirSync(outputDir)).toContain('something else');
    expect(checkpoints().toSorted()).toEqual(['global_step5', 'global_step6']);
    expect(readFileSync(join(outputDir, 'latest'), 'utf8')).toBe('global_step6\n');
  },
);
