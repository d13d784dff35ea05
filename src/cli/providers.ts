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
  const { error, stdout, stderr, signal, status } = spawnSync(
    process.execPath,
    ['-e', program, addonFile(), ortLibrary],
    { encoding: 'utf8', timeout: 30_000 },
  );
  const line = /^providers (.*)$/m.exec(stdout)?.[1];
  if (line !== undefined) return JSON.parse(line) as ProviderState[];
  return [{ name: 'webgpu', fault: whyNoAnswer() }];

  function whyNoAnswer(): string {
    if (error) return `it was not found out: ${error.message}`;
    if (signal !== null) return `to ask for it ended a process by ${signal}`;
    const said = /^\w*Error: .*$/m.exec(stderr)?.[0] ?? stderr.trim().split('\n').at(-1);
    return `it was not found out: exit status ${status}, ${said}`;
  }
}
