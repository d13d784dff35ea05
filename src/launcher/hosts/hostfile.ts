/** The hostfile: one machine a line, `HOST slots=N`; `#` begins a comment. The syntax is DeepSpeed's. */
import { existsSync, readFileSync } from 'node:fs';
import { DeepSpeedError } from '../../errors.ts';

/** A machine and how many ranks it has room for. */
export interface Host {
  name: string;
  slots: number;
}

/** No machine has more cores; a number beyond it is a slip. */
const MOST_SLOTS = 65_536;

/** Where DeepSpeed looks when no `--hostfile` is given; that this one is missing is no error. */
export const DEFAULT_HOSTFILE = '/job/hostfile';

/**
 * @param path of `--hostfile`, or null for the default place
 * @returns null when nothing was named and the default file does not exist: this machine alone.
 * @throws DeepSpeedError HOSTFILE_INVALID
 */
export function readHostfile(path: string | null): Host[] | null {
  if (path === null && !existsSync(DEFAULT_HOSTFILE)) return null;
  const file = path ?? DEFAULT_HOSTFILE;
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new DeepSpeedError(
      'HOSTFILE_INVALID',
      `cannot read the hostfile ${file}: ${(cause as Error).message}`,
      { fix: 'Check the path of --hostfile.', cause, data: { path: file } },
    );
  }
  return parseHostfile(text, file);
}

/**
 * @param file its name, for errors
 * @throws DeepSpeedError HOSTFILE_INVALID with the number of the line
 */
export function parseHostfile(text: string, file: string): Host[] {
  const lineOf = new Map<string, number>();
  const hosts: Host[] = [];
  for (const [index, whole] of text.split(/\r?\n/).entries()) {
    const line = whole.replace(/#.*/, '').trim();
    if (line === '') continue;
    const number = index + 1;
    const refuse = (what: string): never => {
      throw new DeepSpeedError('HOSTFILE_INVALID', `${file}, line ${number}: ${what}`, {
        data: { path: file, line: number },
      });
    };
    const match = /^(\S+)\s+slots=(\d+)$/.exec(line);
    if (!match) return refuse(`got "${line}", expected HOST slots=N`);
    const name = match[1]!;
    const slots = Number(match[2]);
    if (/[@:,]/.test(name))
      refuse(`"${name}" is not a name that --include could write: it has one of @ : ,`);
    if (name.startsWith('-')) refuse(`"${name}" is no name: ssh would take it for a flag`);
    if (slots > MOST_SLOTS)
      refuse(`${name} has slots=${match[2]}, at most ${MOST_SLOTS} are known`);
    if (slots === 0) refuse(`${name} has slots=0; a host needs room for at least one rank`);
    if (lineOf.has(name))
      refuse(`${name} is listed twice, first on line ${lineOf.get(name)}; give all its slots once`);
    lineOf.set(name, number);
    hosts.push({ name, slots });
  }
  if (hosts.length > 0) return hosts;
  throw new DeepSpeedError('HOSTFILE_INVALID', `${file} lists no host`, {
    fix: 'Write a line HOST slots=N for each machine.',
    data: { path: file },
  });
}
