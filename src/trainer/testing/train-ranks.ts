/** For tests: a small GPT-2 trained by ranks that are threads of this process. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { StepMetrics } from '../../hooks/index.ts';
import type { CommStats, MemoryAccount, SwapStats } from '../../native/index.ts';
import type { TrainingArguments } from '../arguments.ts';
import type { TrainerState } from '../callbacks.ts';
import { runRanks } from './run-ranks.ts';

export interface RankTask {
  args: Omit<TrainingArguments, 'outputDir'> & { outputDir?: string };
  worldSize?: number;
  /** As on machines of their own: nothing is read where another rank has it. */
  apart?: boolean;
  /** Samples of the dataset; default 64. */
  samples?: number;
  /** That the model takes; default 16. Samples have from nine sixteenths of it to all. */
  positions?: number;
  /** Of the model; default 2. */
  layers?: number;
  /** Of each rank's initial values; default: one for all. */
  seeds?: readonly number[];
  /** Beginning of the names that are frozen. */
  freeze?: string;
  resumeFromCheckpoint?: string;
  /** Saves a checkpoint at the end; each rank asks for the tag at its place. */
  saveAs?: string[];
  /** Calls `trainer.logSummary()` at the end. */
  logSummary?: boolean;
}

/** What a rank has seen. */
export interface RankResult {
  parameters: Map<string, Float32Array>;
  metrics: StepMetrics[];
  state: TrainerState;
  memory: MemoryAccount;
  stats: CommStats[];
  /** What it printed, on either stream. */
  lines: string[];
  /** Warnings of the process, by text. */
  warnings: string[];
  /** Largest element of the gradient as the reduction left it, by step; means something at stage 0. */
  gradientPeaks: number[];
  /** What swap files moved, and for how many works each transfer and each optimizer step waited. */
  swapped: { stats: SwapStats; waits: string[] };
  error?: { code: string; message: string };
}

const fixture = new URL('./rank.fixture.ts', import.meta.url);

const folders: string[] = [];

/** A folder of its own, gone after `removeFolders`. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'deepspeed-js-'));
  folders.push(folder);
  return folder;
}

export function removeFolders(): void {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
}

/** Trains and returns what every rank saw. A rank's error is in its result. */
export function trainRanks({ worldSize = 1, ...task }: RankTask): Promise<RankResult[]> {
  const outputDir = task.args.outputDir ?? temporaryFolder();
  return runRanks(fixture, worldSize, { ...task, args: { ...task.args, outputDir } });
}

/** The result of a run that must succeed, as rank 0 saw it. */
export async function train(task: RankTask): Promise<RankResult> {
  const [first] = await trainRanks(task);
  if (first!.error) throw new Error(`${first!.error.code}: ${first!.error.message}`);
  return first!;
}
