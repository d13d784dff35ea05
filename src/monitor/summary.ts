/** What a run came to, printed once at its end by rank 0. */
import { dirname } from 'node:path';
import { formatBytes, formatCount, formatDuration } from './units.ts';

export interface RunSummary {
  seconds: number;
  steps: number;
  /** What was trained on, over all ranks: target tokens of a language model, else samples. */
  amount: number;
  unit: 'tokens' | 'samples';
  trainLoss: number;
  evaluationLoss?: number;
  /** Peak bytes of one rank's engine by category; 0 is left out. */
  peakMemory: Readonly<Record<string, number>>;
  files: readonly string[];
}

export function renderSummary(summary: RunSummary): string[] {
  const { seconds, steps, amount, unit } = summary;
  const memory = Object.entries(summary.peakMemory)
    .filter(([, bytes]) => bytes > 0)
    .sort(([, a], [, b]) => b - a)
    .map(([category, bytes]) => `${category} ${formatBytes(bytes)}`);
  // A run that had nothing left to do has neither a speed nor a loss.
  const losses = [
    ...(steps === 0 ? [] : [`train ${summary.trainLoss.toFixed(4)}`]),
    ...(summary.evaluationLoss === undefined
      ? []
      : [`evaluation ${summary.evaluationLoss.toFixed(4)}`]),
  ];
  return [
    `time    ${formatDuration(seconds)}, ${steps} steps`,
    ...(steps === 0
      ? []
      : [`speed   ${formatCount(amount / seconds)} ${unit}/s, ${formatCount(amount)} ${unit}`]),
    ...(losses.length === 0 ? [] : [`loss    ${losses.join(', ')}`]),
    ...(memory.length === 0 ? [] : [`memory  ${memory.join(', ')} (peak of rank 0)`]),
    ...gathered(summary.files).map(
      (file, index) => `${index === 0 ? 'files ' : '      '}  ${file}`,
    ),
  ];
}

/** A folder with more of them is a line of its own: comms_logger has six files for each size of a message. */
const MOST_FILES_OF_A_FOLDER = 8;

function gathered(files: readonly string[]): string[] {
  const counts = new Map<string, number>();
  for (const file of files) counts.set(dirname(file), (counts.get(dirname(file)) ?? 0) + 1);
  const lines = files.map((file) => {
    const folder = dirname(file);
    const count = counts.get(folder)!;
    return count > MOST_FILES_OF_A_FOLDER ? `${folder} (${count} files)` : file;
  });
  return [...new Set(lines)];
}
