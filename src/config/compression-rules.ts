/** Rules of the section `compression`. */
import type { ConfigValues } from './table.ts';

const oneBitTypes: ReadonlySet<string> = new Set(['OneBitAdam', 'ZeroOneAdam', 'OneBitLamb']);
const typeOf = { block_size: 'int8', ratio: 'topk', warmup_steps: 'topk', rank: 'powersgd' };
const defaults = { block_size: 256, ratio: 0.01, warmup_steps: 0, rank: 4 };

export interface CompressionFindings {
  problems: { path: string; expected: string }[];
  warnings: string[];
}

/** What compressed gradients cannot be combined with; keys of another type; where it never begins. */
export function compressionFindings(
  config: ConfigValues,
  totalSteps: number | undefined,
): CompressionFindings {
  const findings: CompressionFindings = { problems: [], warnings: [] };
  const { compression, optimizer, communication_data_type: wire } = config;
  if (compression === null) return findings;
  const excludes = (path: string, reason: string) =>
    findings.problems.push({ path, expected: `excludes ${reason}` });
  if (config.zero_optimization.stage > 1) {
    excludes(
      'zero_optimization.stage',
      'compression unless it is 0 or 1: what a rank has not sent is as large as the whole gradient, which stages 2 and 3 do not keep',
    );
  }
  if (config.fp16.enabled) {
    excludes(
      'fp16.enabled',
      'compression: what has not been sent would change its size with the loss scale; use bf16',
    );
  }
  if (wire !== null && wire !== 'fp32') {
    excludes('communication_data_type', 'compression, which decides what travels; leave it out');
  }
  if (optimizer !== null && oneBitTypes.has(optimizer.type)) {
    excludes('compression', `${optimizer.type}: it sends its momentum instead of gradients`);
  }
  const unused = Object.entries(defaults)
    .filter(([key, value]) => compression[key as keyof typeof defaults] !== value)
    .map(([key]) => key)
    .filter((key) => typeOf[key as keyof typeof typeOf] !== compression.type);
  if (unused.length > 0) {
    findings.warnings.push(
      `compression: type "${compression.type}" does not use ${unused.join(', ')}`,
    );
  }
  if (totalSteps !== undefined && compression.start_step >= totalSteps) {
    findings.warnings.push(
      `compression.start_step is ${compression.start_step} and the run has ${totalSteps} steps: it ends before compression begins`,
    );
  }
  return findings;
}
