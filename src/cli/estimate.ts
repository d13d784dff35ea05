/** `deepspeed-js estimate`: what a rank would hold at each ZeRO stage, before anything is started. */
import { extname } from 'node:path';
import { writeFile } from 'node:fs/promises';
import { Command } from 'commander';
import { DeepSpeedError } from '../errors.ts';
import { packageVersion } from '../launcher/index.ts';
import { loadModelConfig } from '../models/config.ts';
import { formatBytes } from '../monitor/units.ts';
import { loadAddon } from '../native/index.ts';
import { footprintCategories } from '../strategies/zero/footprint.ts';
import { type Estimate, type EstimateRow, estimateMemory, recommend } from '../trainer/estimate.ts';
import { integer, parsed } from './arguments.ts';
import { estimateSvg, rowLabel } from './estimate-picture.ts';

interface Flags {
  model: string;
  deepspeed: string;
  num_procs: number;
  seq?: number;
  freeze?: string[];
  memory?: number;
  out?: string;
  json?: boolean;
}

/**
 * Prints a table, and a recommendation; draws the table where `--out` says.
 *
 * @returns 0
 * @throws DeepSpeedError LAUNCHER_USAGE, OUTPUT_NOT_WRITABLE, and what reading the model's and DeepSpeed's config throws
 */
export async function estimate(argv: string[]): Promise<number> {
  const flags = parseFlags(argv);
  if (flags === null) return 0;
  const { num_procs: ranks, out } = flags;
  if (out !== undefined && extname(out).toLowerCase() !== '.svg') {
    throw new DeepSpeedError('LAUNCHER_USAGE', `--out got "${out}", expected an .svg file`, {
      fix: '`deepspeed-js estimate --help` lists the flags.',
    });
  }
  const made = estimateMemory({
    modelConfig: (await loadModelConfig(flags.model)).json,
    deepspeed: flags.deepspeed,
    worldSize: ranks,
    sequenceLength: flags.seq,
    freeze: flags.freeze,
  });
  const memory =
    flags.memory === undefined
      ? loadAddon().systemLimits().memoryAvailable
      : flags.memory * 2 ** 30;
  const share = memory / ranks;
  const recommended = recommend(made.rows, share);
  if (flags.json) {
    const facts = { ranks, memory, share, ...made, recommended };
    process.stdout.write(`${JSON.stringify(facts)}\n`);
  } else {
    const lines = [
      heading(made, ranks),
      '',
      ...table(made.rows),
      '',
      advice(made, share, recommended),
    ];
    process.stdout.write(`${lines.join('\n')}\n`);
  }
  if (out === undefined) return 0;
  await writeFile(out, estimateSvg(made.rows, share, heading(made, ranks))).catch(
    (cause: Error) => {
      throw new DeepSpeedError(
        'OUTPUT_NOT_WRITABLE',
        `${out} cannot be written: ${cause.message}`,
        {
          cause,
          data: { path: out },
        },
      );
    },
  );
  if (!flags.json) process.stdout.write(`wrote ${out}\n`);
  return 0;
}

function parseFlags(argv: string[]): Flags | null {
  const command = new Command('deepspeed-js estimate')
    .description('Memory of a rank, by category, at each ZeRO stage.')
    .requiredOption('--model <folder>', 'folder with the config.json of a model')
    .requiredOption('--deepspeed <file>', 'DeepSpeed config; its other keys hold at every stage')
    .option('--num_procs <n>', 'ranks', integer('--num_procs', 1), 1)
    .option('--seq <n>', 'tokens of a row (default: the most the model takes)', integer('--seq', 1))
    .option('--freeze <names...>', 'beginnings of the names of parameters that are not trained')
    .option(
      '--memory <GiB>',
      'of all ranks together (default: what is free here)',
      integer('--memory', 1),
    )
    .option('--out <file>', 'draw it: an .svg file')
    .option('--json', 'print one line of JSON, bytes as numbers')
    .version(packageVersion, '-v, --version');
  if (!parsed(command, argv, 'deepspeed-js estimate')) return null;
  return command.opts<Flags>();
}

function heading(made: Estimate, ranks: number): string {
  const rows = `${made.microBatchSize} x ${made.sequenceLength} tokens`;
  const count = made.parameters.toLocaleString('en-US');
  return `${count} parameters, ${made.storage}, ${made.optimizer}, ${ranks} rank${ranks === 1 ? '' : 's'}, micro batch ${rows}`;
}

/** A line a row; categories that no row has are left out. */
function table(rows: readonly EstimateRow[]): string[] {
  const shown = footprintCategories.filter((category) =>
    rows.some(({ bytes }) => bytes !== null && bytes[category] > 0),
  );
  const cells = [
    ['bytes a rank', ...shown, 'total'],
    ...rows.map((row) => {
      const { bytes } = row;
      return bytes === null
        ? [rowLabel(row), 'refused']
        : [
            rowLabel(row),
            ...shown.map((category) => formatBytes(bytes[category])),
            formatBytes(row.total),
          ];
    }),
  ];
  const widths = cells[0]!.map((_, column) =>
    Math.max(...cells.map((line) => line[column]?.length ?? 0)),
  );
  const lines = cells.map((line) =>
    line
      .map((cell, column) =>
        column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!),
      )
      .join('  '),
  );
  const refused = rows.filter(
    ({ refused: why, gradientCheckpointing, onDisk }) =>
      why !== undefined && !gradientCheckpointing && onDisk === 'nothing',
  );
  return [...lines, ...refused.map((row) => `${rowLabel(row)}: ${row.refused}`)];
}

function advice(made: Estimate, share: number, recommended: EstimateRow | null): string {
  const room = `${formatBytes(share)} a rank`;
  if (recommended !== null) {
    const { stage, gradientCheckpointing, onDisk } = recommended;
    const keys = [
      `zero_optimization.stage ${stage}`,
      ...(onDisk === 'nothing' ? [] : ['offload_optimizer.device "nvme"']),
      ...(onDisk === 'states and parameters' ? ['offload_param.device "nvme", max_in_cpu 0'] : []),
      ...(gradientCheckpointing ? ['gradientCheckpointing'] : []),
    ];
    return `fits ${room}: ${keys.join(' with ')}, ${formatBytes(recommended.total)}. ONNX Runtime's workspace and batches come on top.`;
  }
  const least = made.rows
    .filter(({ bytes }) => bytes !== null)
    .reduce((a, b) => (b.total < a.total ? b : a));
  return `nothing fits ${room}: ${rowLabel(least)} needs ${formatBytes(least.total)}. Take a smaller micro batch, more memory, or a smaller model.`;
}
