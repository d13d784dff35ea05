/** Which execution providers of ONNX Runtime can be had here, for `ds_report`. */
import { spawnSync } from 'node:child_process';
import { addonFile, type ExecutionProvider } from '../native/index.ts';

/** `fault`: why it cannot be used here. */
export interface ProviderState {
  name: ExecutionProvider;
  fault: string | null;
}

const program = `
const [addon, ortLibrary] = process.argv.slice(1);
const { createCommunicator, createEngine } = require(addon);
const engine = createEngine({ communicator: createCommunicator({ backend: 'solo' }), threads: 1, ortLibrary });
process.stdout.write('providers ' + JSON.stringify(engine.executionProviders()) + '\\n');
`;

/** Tries them in a process of its own: a driver may print what it likes, or crash. */
export function inspectProviders(ortLibrary: string): ProviderState[] {
  const { stdout, signal, status } = spawnSync(
    process.execPath,
    ['-e', program, addonFile(), ortLibrary],
    { encoding: 'utf8', timeout: 30_000 },
  );
  const line = /^providers (.*)$/m.exec(stdout)?.[1];
  if (line !== undefined) return JSON.parse(line) as ProviderState[];
  return [{ name: 'webgpu', fault: `its driver ended the process (${signal ?? status})` }];
}
