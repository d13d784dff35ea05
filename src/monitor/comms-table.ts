/** The table of DeepSpeed's comms_logger: per operation and message size, latency and bandwidth. */
import type { CommStats } from '../native/contract.ts';
import { formatBytes } from './units.ts';

export interface CommsTableOptions {
  worldSize: number;
  /** Operations to show; absent: all (`prof_all`). */
  operations?: readonly string[];
}

const columns = [
  'Comm. Op',
  'Message Size',
  'Count',
  'Total Latency(ms)',
  'Avg Latency(ms)',
  'algbw (Gbps)',
  'busbw (Gbps)',
];
const WIDTH = 20;

/**
 * @param stats one row per operation and size; `bytes` is one message's, as the communicator counts
 */
export function renderCommsTable(
  stats: readonly CommStats[],
  { worldSize, operations }: CommsTableOptions,
): string[] {
  const wanted = operations && new Set(operations.map(plainName));
  const shown = stats
    .filter(({ calls, operation }) => calls > 0 && (wanted?.has(plainName(operation)) ?? true))
    .sort((a, b) => a.operation.localeCompare(b.operation) || a.bytes - b.bytes);
  const lines = [row(columns)];
  let operation = '';
  for (const entry of shown) {
    if (entry.operation !== operation) {
      operation = entry.operation;
      lines.push(operation);
    }
    const averageMs = entry.totalNs / entry.calls / 1e6;
    const { algorithm, bus } = bandwidth(operation, entry.bytes, averageMs / 1e3, worldSize);
    lines.push(
      row([
        '',
        formatBytes(entry.bytes),
        String(entry.calls),
        (entry.totalNs / 1e6).toFixed(2),
        averageMs.toFixed(2),
        algorithm.toFixed(2),
        bus.toFixed(2),
      ]),
    );
  }
  return lines;
}

/** all_reduce, as DeepSpeed's prof_ops spells it, and allReduce are one operation. */
function plainName(operation: string): string {
  return operation.replaceAll('_', '').toLowerCase();
}

function row(cells: string[]): string {
  return cells
    .map((cell) => cell.padEnd(WIDTH))
    .join('')
    .trimEnd();
}

/**
 * Gbit/s as nccl-tests define them: the algorithm's, size over time, and the bus's, which counts what
 * a ring would move and so compares with the hardware. DeepSpeed doubles the algorithm's bandwidth of
 * an all-reduce; that is kept. `bytes` is the whole region, all ranks' parts together.
 */
export function bandwidth(
  operation: string,
  bytes: number,
  seconds: number,
  ranks: number,
): { algorithm: number; bus: number } {
  const gigabits = (amount: number) => (seconds > 0 ? (amount * 8) / seconds / 1e9 : 0);
  const others = (ranks - 1) / ranks;
  switch (plainName(operation)) {
    case 'allreduce':
      return { algorithm: gigabits(2 * bytes), bus: gigabits(bytes * 2 * others) };
    case 'allgather':
    case 'reducescatter':
    case 'alltoall':
      return { algorithm: gigabits(bytes), bus: gigabits(bytes * others) };
    default:
      return { algorithm: gigabits(bytes), bus: gigabits(bytes) };
  }
}
