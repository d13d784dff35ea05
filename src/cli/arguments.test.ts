import { describe, expect, it } from 'vitest';
import { parseLine } from './arguments.ts';

const options = (line: string) => parseLine(line.split(' '))!.options;

describe('the command line', () => {
  it('has defaults', () => {
    expect(parseLine(['train.ts'])).toEqual({
      notes: [],
      options: {
        script: 'train.ts',
        module: false,
        scriptArguments: [],
        numProcs: null,
        oversubscribe: false,
        hosts: null,
        maxRestarts: 0,
        deepspeedConfig: null,
        bindCoresToRank: false,
        bindCoreList: null,
        rankLogFolder: null,
        masterPort: null,
        hangTimeoutMs: 1_800_000,
        gracePeriodMs: 5000,
        quiet: false,
      },
    });
  });

  it('reads every flag before the script, and none of them after it', () => {
    const flags =
      '--num_procs 3 --oversubscribe --deepspeed c.json --bind_cores_to_rank --bind_core_list 0-2 --module --enable_each_rank_log logs --master_port 29500 --hang_timeout 60 --grace_period 0 -q';
    expect(options(`${flags} pkg --num_procs 7 --help -q`)).toEqual({
      script: 'pkg',
      module: true,
      scriptArguments: ['--num_procs', '7', '--help', '-q'],
      numProcs: 3,
      oversubscribe: true,
      hosts: null,
      maxRestarts: 0,
      deepspeedConfig: 'c.json',
      bindCoresToRank: true,
      bindCoreList: '0-2',
      rankLogFolder: 'logs',
      masterPort: 29_500,
      hangTimeoutMs: 60_000,
      gracePeriodMs: 0,
      quiet: true,
    });
  });

  it.each([
    ['t.js --deepspeed c.json --lr 1', 'c.json', ['--lr', '1']],
    ['t.js --lr 1 --deepspeed=c.json', 'c.json', ['--lr', '1']],
    ['t.js --deepspeed --deepspeed_config c.json x', 'c.json', ['x']],
    ['t.js --deepspeed', null, []],
    ['--deepspeed c.json t.js --deepspeed c.json', 'c.json', []],
    ['--deepspeed c.json t.js -- --deepspeed d.json', 'c.json', ['--deepspeed', 'd.json']],
    ['-- t.js --deepspeed d.json', null, ['--deepspeed', 'd.json']],
    ['t.js a -- b -- c', null, ['a', 'b', '--', 'c']],
  ])('%s', (line, deepspeedConfig, scriptArguments) => {
    expect(options(line)).toMatchObject({ script: 't.js', deepspeedConfig, scriptArguments });
  });

  it('reads --num_gpus as --num_procs and says so', () => {
    const line = parseLine(['--num_gpus', '2', 't.js'])!;
    expect(line.options.numProcs).toBe(2);
    expect(line.notes).toEqual([expect.stringContaining('--num_procs')]);
  });

  it.each([
    ['', "missing required argument 'script'"],
    ['--num_proc 2 t.js', 'Did you mean --num_procs?'],
    ['--num_procs two t.js', '--num_procs got "two", expected a whole number of at least 1'],
    ['--num_procs 1.5 t.js', '--num_procs got "1.5"'],
    ['--master_port 70000 t.js', 'from 1 to 65535'],
    ['--num_procs', 'argument missing'],
    ['--num_procs 2 --num_gpus 3 t.js', '--num_procs is 2, --num_gpus is 3'],
    ['--bind_core_list 0 t.js', '--bind_core_list needs --bind_cores_to_rank'],
    ['--deepspeed a.json t.js --deepspeed b.json', 'they mean the same'],
    ['t.js --deepspeed_config', '--deepspeed_config needs a file'],
    ['--no_python t.py', 'every rank is a Node process'],
  ])('refuses %s', (line, message) => {
    expect(() => parseLine(line.split(' ').filter(Boolean))).toThrow(
      expect.objectContaining({
        code: 'LAUNCHER_USAGE',
        message: expect.stringContaining(message),
      }),
    );
  });

  it.each([
    ['--no_ssh t.js', '--no_ssh'],
    ['--elastic_training t.js', '--elastic_training'],
    ['--autotuning tune t.js', '--autotuning'],
  ])('names what does not exist yet: %s', (line, flag) => {
    expect(() => parseLine(line.split(' '))).toThrow(
      expect.objectContaining({ code: 'NOT_AVAILABLE_YET', data: { flag } }),
    );
  });

  it.each(['--num_nodes 1 t.js', '--no_local_rank t.js'])(
    'takes what changes nothing: %s',
    (line) => {
      expect(options(line).script).toBe('t.js');
    },
  );
});
