/** `deepspeed-js zero_to_fp32`: a checkpoint's weights as one model.safetensors, as DeepSpeed's script of that name. */
import { join } from 'node:path';
import { Command } from 'commander';
import { packageVersion } from '../launcher/index.ts';
import { type ParameterSource, SafetensorsFile, saveWeights } from '../models/index.ts';
import { loadAddon } from '../native/index.ts';
import { type StoredParameter, storedParameters } from '../strategies/checkpoint/index.ts';
import { integer, parsed } from './arguments.ts';

interface Flags {
  tag?: string;
  max_shard_bytes: number;
}

/**
 * Writes the fp32 weights of a checkpoint, whatever stage and number of ranks it is of. Nothing is held whole.
 *
 * @returns 0
 * @throws DeepSpeedError LAUNCHER_USAGE, CHECKPOINT_NOT_FOUND, CHECKPOINT_CORRUPT, CHECKPOINT_VERSION, OUTPUT_NOT_WRITABLE
 */
export async function zeroToFp32(argv: string[]): Promise<number> {
  const command = new Command('deepspeed-js zero_to_fp32')
    .description('Writes the fp32 weights of a checkpoint as model.safetensors.')
    .argument('<checkpoints>', 'folder of checkpoints, or of one of them')
    .argument('<out>', 'folder for model.safetensors')
    .option('-t, --tag <tag>', 'which checkpoint (default: the one that "latest" names)')
    .option(
      '--max_shard_bytes <n>',
      'more is split into files of this size, with an index',
      integer('--max_shard_bytes', 1),
      5e9,
    )
    .version(packageVersion, '-v, --version');
  if (!parsed(command, argv, 'deepspeed-js zero_to_fp32')) return 0;
  const [directory, out] = command.args as [string, string];
  const { tag, max_shard_bytes: maxShardBytes } = command.opts<Flags>();
  const { folder, manifest, parameters } = await storedParameters(loadAddon(), directory, tag);
  const files = new Map(
    manifest.shards.map(({ file }) => {
      const path = join(folder, file);
      return [path, new SafetensorsFile(path)];
    }),
  );
  try {
    const sources = parameters
      .sort((a, b) => (a.name < b.name ? -1 : 1))
      .map((parameter) => [parameter.name, sourceOf(parameter, files)] as const);
    const written = await saveWeights(out, new Map(sources), { maxShardBytes });
    const elements = parameters.reduce((sum, { parts }) => sum + total(parts), 0);
    process.stdout.write(
      `${folder}, step ${manifest.step}: ${parameters.length} parameters, ${elements.toLocaleString('en-US')} elements\n` +
        `wrote ${written.map((file) => join(out, file)).join(', ')}\n`,
    );
  } finally {
    for (const file of files.values()) file.close();
  }
  return 0;
}

function total(parts: readonly { count: number }[]): number {
  return parts.reduce((sum, { count }) => sum + count, 0);
}

/** Reads across the files that a parameter's parts lie in. */
function sourceOf(
  { shape, parts }: StoredParameter,
  files: ReadonlyMap<string, SafetensorsFile>,
): ParameterSource {
  return {
    shape,
    read(start = 0, count = total(parts) - start) {
      const values = new Float32Array(count);
      let at = 0;
      for (const part of parts) {
        const first = Math.max(start, at);
        const end = Math.min(start + count, at + part.count);
        if (end > first) {
          const bytes = files
            .get(part.file)!
            .readBytes(part.tensor, part.start + first - at, end - first);
          values.set(new Float32Array(bytes.buffer), first - start);
        }
        at += part.count;
      }
      return values;
    },
  };
}
