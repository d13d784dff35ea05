/** What the ranks of other machines find in their environment. */
import { existsSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { DeepSpeedError } from '../../errors.ts';

/** Beginnings of names that go to every rank: DeepSpeed's, Node's and our own. */
const FORWARDED = /^(MLFLOW|MV2|UCX|NODE_|OMP_|HF_|DEEPSPEED_JS_)/;

/**
 * Variables for all ranks: those of this process that a run depends on, then the lines of
 * `.deepspeed_env` in the home folder and in the working folder, later ones over earlier ones.
 *
 * @param environment of this process; DS_ENV_FILE in it gives the file another name
 * @throws DeepSpeedError LAUNCHER_USAGE with the number of a line that is not KEY=VALUE
 */
export function forwardedVariables(
  environment: NodeJS.ProcessEnv,
  folders: readonly string[] = [homedir(), process.cwd()],
): Record<string, string> {
  const variables: Record<string, string> = {};
  for (const [name, value] of Object.entries(environment))
    if (FORWARDED.test(name) && value !== undefined) variables[name] = value;
  const file = environment.DS_ENV_FILE || '.deepspeed_env';
  const paths = new Set(
    folders.map((folder) => (file.startsWith('/') ? file : join(folder, file))),
  );
  for (const path of paths)
    if (existsSync(path))
      Object.assign(variables, parseVariables(readFileSync(path, 'utf8'), path));
  return variables;
}

/** Lines `KEY=VALUE`; everything behind the first `=` is the value, as it is. */
export function parseVariables(text: string, path: string): Record<string, string> {
  const variables: Record<string, string> = {};
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue;
    const [, name, value] = /^\s*([A-Za-z_][A-Za-z0-9_]*)=(.*)$/s.exec(line) ?? [];
    if (name === undefined)
      throw new DeepSpeedError(
        'LAUNCHER_USAGE',
        `${path}, line ${index + 1}: got "${line}", expected KEY=VALUE`,
        { fix: 'Correct the line, or begin it with # to leave it out.', data: { path } },
      );
    variables[name] = value!;
  }
  return variables;
}
