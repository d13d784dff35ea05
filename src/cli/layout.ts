/** `deepspeed-js layout`: what the section `sparse_attention` of a config comes to, as numbers and a picture. */
import { writeFile } from 'node:fs/promises';
import { extname } from 'node:path';
import { Command } from 'commander';
import { readConfig, readSparseAttention, type SparseAttentionValues } from '../config/index.ts';
import { DeepSpeedError } from '../errors.ts';
import { packageVersion } from '../launcher/index.ts';
import { loadModelConfig } from '../models/config.ts';
import type { BlockLayout } from '../strategies/sparse-attention/block-layout.ts';
import { RunLayouts } from '../strategies/sparse-attention/run-layouts.ts';
import { integer, parsed } from './arguments.ts';
import { layoutPng, layoutSvg } from './layout-picture.ts';

interface Flags {
  deepspeed: string;
  seq: number;
  heads?: number;
  model?: string;
  out?: string;
}

/** Where neither --heads nor --model says how many, and heads may differ: enough to see how. */
const assumedHeads = 4;

/**
 * Prints the layout's numbers, and draws it where `--out` says.
 *
 * @returns 0
 * @throws DeepSpeedError LAUNCHER_USAGE, CONFIG_INVALID, LAYOUT_INVALID, OUTPUT_NOT_WRITABLE, and what a model folder throws.
 */
export async function layout(argv: string[]): Promise<number> {
  const flags = parseFlags(argv);
  if (flags === null) return 0;
  const picture = pictureKind(flags.out);
  const values = readSparseAttention(readConfig(flags.deepspeed));
  if (values === null) {
    throw new DeepSpeedError(
      'CONFIG_INVALID',
      `${flags.deepspeed} has no section sparse_attention: attention is dense`,
      { fix: 'Add for instance "sparse_attention": {"mode": "fixed"}.' },
    );
  }
  requireDrawable('--seq', flags.seq, values.block);
  requireDrawable('max_seq_length', values.max_seq_length ?? 0, values.block);
  const model = flags.model === undefined ? undefined : await loadModelConfig(flags.model);
  const heads =
    flags.heads ?? model?.heads ?? (values.different_layout_per_head ? assumedHeads : 1);
  const layouts = new RunLayouts(values, model?.maxPositions ?? 'fixed');
  const { layout: made, whole } = layouts.of({ heads, length: flags.seq });
  // The picture first: who reads the lines may stop after some of them, which ends this process.
  if (flags.out !== undefined && picture !== null) await draw(made, values, flags.out, picture);
  for (const line of describe(values, made)) process.stdout.write(`${line}\n`);
  process.stdout.write(`${originOf(made, whole)}\n`);
  if (flags.out !== undefined) process.stdout.write(`wrote ${flags.out}\n`);
  return 0;
}

async function draw(
  made: BlockLayout,
  { mode }: SparseAttentionValues,
  out: string,
  picture: 'png' | 'svg',
): Promise<void> {
  const title = `${mode}, block ${made.block}, ${made.sequenceLength} positions`;
  const drawing = picture === 'png' ? layoutPng(made, title) : layoutSvg(made, title);
  await writeFile(out, drawing).catch((cause: Error) => {
    throw new DeepSpeedError('OUTPUT_NOT_WRITABLE', `${out} cannot be written: ${cause.message}`, {
      cause,
      data: { path: out },
    });
  });
}

/** A layout is a matrix of blocks: beyond this many a side it would take more than a gigabyte a head. */
const mostBlocks = 32_768;

function requireDrawable(name: string, positions: number, block: number): void {
  if (positions / block <= mostBlocks) return;
  throw new DeepSpeedError(
    'LAUNCHER_USAGE',
    `${name} ${positions} is ${Math.ceil(positions / block)} blocks of ${block}; at most ${mostBlocks} are shown`,
    { fix: 'Show a shorter sequence, or take larger blocks: the pattern repeats.' },
  );
}

function parseFlags(argv: string[]): Flags | null {
  const command = new Command('deepspeed-js layout')
    .description('Shows which blocks of attention a DeepSpeed config computes.')
    .requiredOption('--deepspeed <file>', 'DeepSpeed config with a section sparse_attention')
    .requiredOption('--seq <n>', 'positions of a padded batch', integer('--seq', 1))
    .option('--heads <n>', 'attention heads (default: those of --model)', integer('--heads', 1))
    .option('--model <folder>', 'take heads and longest sequence from its config.json')
    .option('--out <file>', 'draw it: a .png or .svg file')
    .version(packageVersion, '-v, --version');
  if (!parsed(command, argv, 'deepspeed-js layout')) return null;
  return command.opts<Flags>();
}

function pictureKind(out: string | undefined): 'png' | 'svg' | null {
  if (out === undefined) return null;
  const kind = extname(out).toLowerCase();
  if (kind === '.png' || kind === '.svg') return kind === '.png' ? 'png' : 'svg';
  throw new DeepSpeedError('LAUNCHER_USAGE', `--out got "${out}", expected a .png or .svg file`, {
    fix: '`deepspeed-js layout --help` lists the flags.',
  });
}

function originOf(made: BlockLayout, whole: BlockLayout): string {
  if (made !== whole)
    return `the first ${made.sequenceLength} positions of the layout for ${whole.sequenceLength}`;
  return `the layout for ${made.sequenceLength} positions; a run that allows longer sequences (max_seq_length, or those of --model) cuts a longer one`;
}

function describe(values: SparseAttentionValues, made: BlockLayout): string[] {
  const { blocks, heads } = made;
  const share = (causal: boolean) => {
    const all = heads.length * (causal ? (blocks * (blocks + 1)) / 2 : blocks * blocks);
    const computed = made.count({ causal });
    return `${computed} of ${all} (${((100 * computed) / all).toFixed(1)}%)`;
  };
  const different = made.distinct().bitmaps.length;
  return [
    `${values.mode}: ${blocks} x ${blocks} blocks of ${made.block}, ${heads.length} heads with ${different} different layout${different === 1 ? '' : 's'}`,
    `blocks computed: ${share(false)}`,
    `in a causal model, on and below the diagonal: ${share(true)}`,
  ];
}
