/** One section of a config alone, for tools that need no batch size and no ranks. */
import { checkKeys, type Findings } from './check.ts';
import { configError } from './problem.ts';
import type { RawConfig } from './read.ts';
import { type SparseAttentionValues, sparseAttention } from './sections/sparse-attention.ts';
import { sparsityProblems } from './sparsity-rules.ts';

/**
 * The section `sparse_attention`, filled; null where the file has none.
 *
 * @throws CONFIG_INVALID listing every problem of the section
 */
export function readSparseAttention(raw: RawConfig): SparseAttentionValues | null {
  const findings: Findings = { problems: [], warnings: [], origins: {} };
  const { sparse_attention: written } = raw.values;
  const keys = { sparse_attention: sparseAttention };
  const { sparse_attention: section } = checkKeys(
    keys,
    { sparse_attention: written },
    '',
    {},
    findings,
  );
  const values = section as SparseAttentionValues | null;
  if (values !== null && findings.problems.length === 0) {
    for (const { key, expected } of sparsityProblems(values))
      findings.problems.push({ kind: 'rule', path: `sparse_attention.${key}`, expected });
  }
  if (findings.problems.length > 0) throw configError(findings.problems, raw.source, raw.lines);
  return values;
}
