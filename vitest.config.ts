import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Files that take more than fifteen seconds, by the end of their paths; the longest first. */
const long = [
  'checkpoint.kill',
  'tfjs.equality',
  'integration-tests/native',
  'package',
  'launcher.teardown',
  'precision/precision',
  'config-keys',
  'tfjs.rules',
  'tfjs.config',
  'tfjs.refusals',
  'integration-tests/hosts',
  'faults',
  'tfjs.real',
  'one-bit/zero-one',
  'progressive-layer-drop.ranks',
  'readme',
  'zero.equality',
  'zero.gathers',
  'zero.pairwise',
  'zero.tiling',
  'zero.offload',
];

/**
 * Begins with the long files, so that no worker is left alone with one at the end. By itself vitest goes by
 * size until it has seen a run here, and forty lines may take a minute.
 */
class LongFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification) => {
      const at = long.findIndex((name) => moduleId.endsWith(`/${name}.test.ts`));
      return at < 0 ? long.length : at;
    };
    return (await super.sort(files)).sort((a, b) => place(a) - place(b));
  }
}

export default defineConfig({
  test: {
    include: ['src/**/*.test.ts', 'integration-tests/**/*.test.ts'],
    // Two cores: rank processes and compilers must not fight over them.
    maxWorkers: 2,
    pool: 'forks',
    sequence: { sequencer: LongFirst },
    setupFiles: ['vitest.setup.ts'],
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
