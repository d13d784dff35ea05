/** Where events go: TensorBoard and CSV files; the web services are not connected yet. */
import { accepted, available, flag, notYet, positiveInteger, section, text } from '../key.ts';

const files = {
  enabled: available(flag, false, 'Write events.'),
  output_path: available(text, '', 'Folder; empty: the working directory.'),
  job_name: available(text, 'DeepSpeedJobName', 'Folder inside output_path for this job.'),
};
const whenOn = 'used only when enabled';
const instead = 'use tensorboard or csv_monitor, which write files';

export const monitorKeys = {
  tensorboard: section('TensorBoard event files.', files),
  csv_monitor: section('One CSV file per event name.', files),
  wandb: section('Weights & Biases.', {
    enabled: notYet(flag, false, 'Send events.', instead),
    group: accepted(text, null, 'Group of runs.', whenOn),
    team: accepted(text, null, 'Team.', whenOn),
    project: accepted(text, 'deepspeed', 'Project.', whenOn),
  }),
  comet: section('Comet.', {
    enabled: notYet(flag, false, 'Send events.', instead),
    samples_log_interval: accepted(positiveInteger, 100, 'Samples between events.', whenOn),
    project: accepted(text, null, 'Project.', whenOn),
    workspace: accepted(text, null, 'Workspace.', whenOn),
    api_key: accepted(text, null, 'Key of the service.', whenOn),
    experiment_name: accepted(text, null, 'Name of the experiment.', whenOn),
    experiment_key: accepted(text, null, 'Identity of the experiment.', whenOn),
    online: accepted(flag, null, 'Send at once.', whenOn),
    mode: accepted(text, null, 'get, create or get_or_create.', whenOn),
  }),
};
