"""The command on terminals, systems and machines of every kind, and what it asks before it runs or sends something."""

import io
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from support.trainings import ENV

root = Path(__file__).parent.parent
PLAIN = {k: v for k, v in ENV.items() if k not in ('PYTHONIOENCODING', 'PYTHONUTF8', 'LANG', 'LC_ALL')}


def said(words, capsys):
    "Exit code, standard output and standard error of a command."
    from vidlankd_nb import cli

    code = 0
    try:
        cli.main(words if isinstance(words, list) else words.split())
    except SystemExit as e:
        code = e.code or 0
    return code, *capsys.readouterr()


# terminals


@pytest.mark.parametrize(
    'more',
    [
        {'PYTHONIOENCODING': 'ascii'},
        {'PYTHONIOENCODING': 'latin-1'},
        {'LC_ALL': 'POSIX', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'},
    ],
    ids=['ascii', 'latin-1', 'POSIX'],
)
def test_help_on_a_terminal_without_the_letters(more):
    out = subprocess.run(
        [sys.executable, '-m', 'vidlankd_nb.cli', 'help'], capture_output=True, env=PLAIN | more
    )
    assert out.returncode == 0, out.stderr
    assert b'[--section.key VALUE ...]' in out.stdout  # the ellipsis in letters that each terminal has


LONG = """
import sys
from vidlankd_nb import cli
def work(args):
    for k in range(20_000): print('a line of a long job …')
    open(args[0], 'w', encoding='utf-8').write('done')
cli.COMMANDS['work'] = (work, '')
sys.argv = ['vidlankd', 'work', sys.argv[1]]
cli.main()
"""


@pytest.mark.parametrize('reader', ['head -n 1', 'true', 'cat > /dev/full'])
def test_work_goes_on_when_nobody_reads_what_it_prints(reader, tmp_path):
    command = f'"$0" -c "$1" "$2" | {reader}; exit ${{PIPESTATUS[0]}}'
    if reader.startswith('cat'):
        command = '"$0" -c "$1" "$2" > /dev/full'
    out = subprocess.run(
        ['bash', '-c', command, sys.executable, LONG, str(tmp_path / 'done')], capture_output=True, env=PLAIN
    )
    assert out.returncode == 0 and (tmp_path / 'done').exists(), out.stderr
    assert b'the work goes on' in out.stderr and b'Traceback' not in out.stderr


def test_a_closed_output_and_an_error_in_letters_of_its_own(tmp_path):
    "Both streams closed; and an error about a name that the terminal has no letters for."
    command = '"$0" -c "$1" "$2" >&- 2>&-'
    done = tmp_path / 'done'
    assert subprocess.run(['bash', '-c', command, sys.executable, LONG, str(done)], env=PLAIN).returncode == 0
    assert done.exists()
    out = subprocess.run(
        [sys.executable, '-m', 'vidlankd_nb.cli', 'größe'],
        capture_output=True,
        env=PLAIN | {'PYTHONIOENCODING': 'ascii'},
    )
    assert out.returncode == 2 and out.stderr.startswith(b"vidlankd: Unknown command 'gr")


def test_a_log_has_no_bars(tmp_path):
    "Where standard error is no terminal, no library draws a bar over and over."
    code = (
        "import sys; sys.argv = ['vidlankd', 'work']\nfrom vidlankd_nb import cli\n"
        "def work(args):\n    from tqdm import tqdm\n    for _ in tqdm(range(9), mininterval=0): pass\n    print('end')\n"
        "cli.COMMANDS['work'] = (work, '')\ncli.main()"
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, env=PLAIN)
    assert out.stdout.split() == [b'end'] and b'\r' not in out.stderr and b'it/s' not in out.stderr


# systems


def test_without_fcntl_and_without_signals_that_windows_lacks(tmp_path):
    "Every module is imported, a loop can be asked to stop, and a stage runs."
    hidden = tmp_path / 'hidden'
    hidden.mkdir()
    missing = "raise ModuleNotFoundError(\"No module named 'fcntl'\", name='fcntl')"
    (hidden / 'fcntl.py').write_text(missing, encoding='utf-8')
    (tmp_path / 'text.txt').write_text('some words of a größere text\n' * 40, encoding='utf-8')
    code = """
import importlib, os, pkgutil, signal, sys
for name in ('SIGUSR1', 'SIGUSR2', 'SIGHUP', 'SIGQUIT'):
    if hasattr(signal, name): delattr(signal, name)
del os.sched_getaffinity
import vidlankd_nb
for m in pkgutil.walk_packages(vidlankd_nb.__path__, 'vidlankd_nb.'):
    module = importlib.import_module(m.name)
    assert not {'resource', 'pwd', 'termios', 'fcntl'} & set(vars(module)), m.name
from vidlankd_nb.checkpoints import stop_on_signal
with stop_on_signal() as stop: assert not stop.agreed()
from vidlankd_nb.cli import main
main(['corpus', sys.argv[2], '--out', sys.argv[1], '--block', '16', '--vocab_size', '200'])
"""
    out = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code, str(tmp_path / 'run'), str(tmp_path / 'text.txt')],
        capture_output=True,
        encoding='utf-8',
        env=PLAIN | {'PYTHONPATH': f'{hidden}{os.pathsep}{root}'},
    )
    assert out.returncode == 0, out.stderr[-2000:]
    assert (tmp_path / 'run' / 'corpus.json').is_file()


def test_the_workflow_covers_systems_and_versions():
    import yaml

    jobs = yaml.safe_load((root / '.github' / 'workflows' / 'test.yml').read_text(encoding='utf-8'))['jobs']
    versions = jobs['test']['strategy']['matrix']['python']
    assert versions == ['3.10', '3.11', '3.12', '3.13', '3.14']
    assert set(jobs['quick']['strategy']['matrix']['system']) == {'windows-latest', 'macos-latest'}
    for step in jobs['quick']['steps']:
        for name in [w for w in step.get('run', '').split() if w.startswith('tests/')]:
            assert (root / name).is_file(), name


# the command line


def test_version_help_and_quiet(tmp_path, capsys):
    from vidlankd_nb import __version__

    assert said('-V', capsys)[1] == said('--version', capsys)[1] == f'{__version__}\n'
    assert said('help evaluate', capsys) == said('evaluate --help', capsys)
    assert said('help', capsys) == said('--help', capsys)
    code, _, error = said('help evalate', capsys)
    assert code == 2 and "did you mean 'evaluate'" in error
    (tmp_path / 'text.txt').write_text('some words of a text\n' * 40, encoding='utf-8')
    words = f'corpus {tmp_path}/text.txt --block 16 --vocab_size 99 --out {tmp_path}'
    assert said(f'{words}/a --quiet', capsys) == (0, '', '')
    assert 'training and' in said(f'{words}/b', capsys)[1]
    assert 'seed: 0' in said('run --config quick --quiet --print_config', capsys)[1]
    assert said('run --config quik --quiet', capsys)[2].startswith('vidlankd: No configuration')


@pytest.mark.parametrize('command', ['run', 'features', 'corpus', 'evaluate', 'teacher', 'student', 'ablate'])
def test_help_shows_what_is_the_commands_own_and_help_all_the_rest(command, capsys):
    code, short, _ = said(f'help {command}', capsys)
    whole = said(f'{command} --help-all', capsys)[1]
    assert code == 0 and len(short.splitlines()) < 130 and len(whole.splitlines()) > 330
    foreign = '\n  --world.noun_clips '
    assert foreign in whole and foreign not in short
    assert f"'vidlankd {command} --help-all' lists all of them" in short


def test_help_of_evaluate_begins_with_the_tasks(capsys):
    from vidlankd_nb.evaluation.benchmarks import TASKS

    text = said('help evaluate', capsys)[1]
    top = text[: text.index('\noptions:')]
    assert all(task in top for task in (*TASKS, 'glue', 'toy', 'paper', 'all'))
    order = [text.index(f'\n  {option} ') for option in ('--out', '--tasks', '--seeds', '--lr', '--config')]
    assert order == sorted(order) and '--compile' not in text


@pytest.mark.parametrize(
    'words, sentence',
    [
        ('bench data --threads x', '--threads is x; a whole number is expected.'),
        ('bench data --outt x', "Unknown option '--outt': did you mean '--out'?"),
        ('bench train --config smal', "Unknown --config 'smal': did you mean 'small'?"),
        ('captions', "'vidlankd captions' needs IN, --out"),
        ('captions x --out', '--out needs a value.'),
        ('probe m --tasks coda', "'vidlankd probe' needs --data"),
        ('run --config', '--config needs a value.'),
        ('completion x', "Unknown shell 'x': valid names: bash, tcsh, zsh."),
    ],
)
def test_every_command_says_its_errors_in_one_form(words, sentence, capsys):
    code, out, error = said(words, capsys)
    assert code == 2 and not out and error.startswith(f'vidlankd: {sentence}') and error.count('\n') == 1


def test_completion_knows_commands_options_and_choices(tmp_path, capsys, monkeypatch):
    pytest.importorskip('shtab')
    from vidlankd_nb import cli

    few = {k: cli.COMMANDS[k] for k in ('world', 'captions', 'completion')}
    monkeypatch.setattr(cli, 'COMMANDS', few)
    script = said('completion bash', capsys)[1]
    (tmp_path / 'complete.sh').write_text(script, encoding='utf-8')
    ask = 'source "$0"; COMP_WORDS=(vidlankd world --world.kind ""); COMP_CWORD=3; _shtab_vidlankd; echo "${COMPREPLY[@]}"'
    out = subprocess.run(
        ['bash', '-c', ask, str(tmp_path / 'complete.sh')], capture_output=True, encoding='utf-8'
    )
    assert set(out.stdout.split()) == {'objects', 'hours'}, (out.stdout, out.stderr)
    monkeypatch.setitem(sys.modules, 'shtab', None)
    assert "pip install 'vidlankd_nb[completion]'" in said('completion zsh', capsys)[2]


# other people's code

OWN = "students: {mine: {objective: 'FILE:Own'}}\n"


def test_code_that_a_file_brings_is_confirmed(tmp_path, capsys):
    "Named in the sentence, not run before; what is typed needs no second word, and no file can confirm itself."
    own = tmp_path / 'own.py'
    own.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Own: pass\n", encoding='utf-8')
    config = tmp_path / 'shared.yaml'
    config.write_text(OWN.replace('FILE', str(own)), encoding='utf-8')
    words = ['run', '--config', 'quick', '--config', str(config), '--out', str(tmp_path / 'run')]
    code, _, error = said(words, capsys)
    assert (
        code == 2 and "'mine' has the objective" in error and '--allow-code' in error and str(config) in error
    )
    assert not (tmp_path / 'ran').exists() and not (tmp_path / 'run').exists()
    code, _, error = said([*words, '--allow-code'], capsys)
    assert code == 2 and 'is no objective' in error and (tmp_path / 'ran').exists()
    typed = ['run', '--config', 'quick', '--students', f'{{mine: {{objective: "{own}:Own"}}}}']
    assert 'is no objective' in said([*typed, '--out', str(tmp_path / 'typed')], capsys)[2]
    config.write_text('allow_code: true\n' + OWN.replace('FILE', str(own)), encoding='utf-8')
    assert "Unknown key 'allow_code'" in said(words, capsys)[2]
    config.write_text('quiet: true\n', encoding='utf-8')
    assert "Unknown key 'quiet'" in said(words, capsys)[2]


def test_code_that_a_grid_or_a_run_brings_is_confirmed(tmp_path, capsys):
    grid = tmp_path / 'grid.yaml'
    grid.write_text("losses: {mine: {objective: 'lab.losses.Own'}}\n", encoding='utf-8')
    words = ['ablate', '--config', 'quick', '--grid', str(grid), '--out', str(tmp_path / 'grid')]
    assert f"The grid {grid} brings code of its own: 'mine'" in said(words, capsys)[2]
    assert 'No objective' in said([*words, '--allow-code', '--table'], capsys)[2]
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'config.yaml').write_text(OWN.replace('FILE', 'own.py'), encoding='utf-8')
    code, _, error = said(['ground', str(tmp_path / 'run'), '--text', 'x'], capsys)
    assert code == 2 and f"The run {tmp_path / 'run'} brings code of its own" in error


# this machine


def test_doctor_tells_programs_and_people_what_to_do(tmp_path, capsys, monkeypatch):
    from vidlankd_nb import doctor

    code, text, _ = said(['doctor', str(tmp_path), '--quick', '--json'], capsys)
    told = json.loads(text)
    assert code == 0 and told['is_well'] and {c['word'] for c in told['checks']} <= {'fine', 'mind'}
    assert [c['name'] for c in told['checks']] == [
        'versions', 'GPUs', 'bf16', 'processes', 'shared memory', 'locks', 'disk', 'cores'
    ]  # fmt: skip
    monkeypatch.setattr(doctor, 'check_disk', lambda folder: 1 / 0)
    code, text, _ = said(['doctor', str(tmp_path), '--quick'], capsys)
    assert code == 1 and 'ZeroDivisionError: division by zero: broken' in text
    assert 'There is no folder' in said('doctor nowhere', capsys)[2]


def test_doctor_outlives_a_step_that_crashes_or_hangs(monkeypatch):
    from vidlankd_nb import doctor

    def instead(code):
        monkeypatch.setattr(doctor, 'program', lambda *_: [sys.executable, '-c', code])
        return doctor.step_in_a_process('cpu', seconds=3)

    crashed = instead('import os; os.abort()')
    assert (crashed.word, crashed.found) == ('broken', 'exit code -6, no word')
    hung = instead('import time; time.sleep(60)')
    assert (hung.word, hung.found) == ('broken', 'not done after 3 s')
    assert instead("print('0.1 s in float32')").found == '0.1 s in float32'


def test_locks_that_do_not_keep_anybody_out_are_broken(tmp_path):
    from filelock import FileLock

    from vidlankd_nb.doctor import check_locks

    class Lax(FileLock):
        def _acquire(self):
            self._context.lock_file_fd = os.open(self.lock_file, os.O_RDWR | os.O_CREAT)

    class None_(FileLock):
        def _acquire(self):
            raise OSError(37, 'No locks available')

    assert check_locks(tmp_path, Lax).word == 'broken'
    assert (check_locks(tmp_path, None_).word, 'No locks' in check_locks(tmp_path, None_).found) == (
        'mind',
        True,
    )


# the hub


@pytest.fixture
def student(tmp_path):
    folder = tmp_path / 'run' / 'students' / 'nst'
    (folder / 'checkpoints').mkdir(parents=True)
    for name, text in {
        'config.json': '{"architectures": ["BertForMaskedLM"]}',
        'README.md': "---\nlibrary_name: transformers\n---\nAutoModel.from_pretrained('.')",
        'tokenizer.json': '{}',
        'log.jsonl': '{}',
        'model.safetensors': 'weights',
        'checkpoints/state.json': '{}',
    }.items():
        (folder / name).write_text(text, encoding='utf-8')
    return folder


class Hub(BaseHTTPRequestHandler):
    "What `publish` asks of the hub: is there such a repository, make one, how will files come, take a commit."

    asked = []
    is_private = None  # of a repository that is there; None: there is none
    refuses = None  # error code

    def do_GET(self):
        if self.is_private is None:
            return self.answer(404, {'error': 'Repository not found'}, {'X-Error-Code': 'RepoNotFound'})
        return self.answer(200, {'id': 'ada/nst', 'private': self.is_private, 'tags': [], 'siblings': []})

    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        Hub.asked.append((self.path, body))
        if self.refuses:
            return self.answer(self.refuses, {'error': 'no'})
        if self.path.endswith('/preupload/main'):
            files = [
                {'path': f['path'], 'uploadMode': 'regular', 'shouldIgnore': False}
                for f in json.loads(body)['files']
            ]
            return self.answer(200, {'files': files})
        here = f'http://127.0.0.1:{self.server.server_port}'
        if self.path.endswith('/commit/main'):
            return self.answer(
                200, {'commitOid': '1' * 40, 'commitUrl': f'{here}/ada/nst/commit/' + '1' * 40}
            )
        return self.answer(200, {'url': f'{here}/ada/nst', 'errors': [], 'warnings': []})

    def answer(self, code, value, headers=()):
        self.send_response(code)
        for name, text in dict(headers).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    server = HTTPServer(('127.0.0.1', 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, 'ENDPOINT', f'http://127.0.0.1:{server.server_port}')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setenv('HF_TOKEN', 'hf_of_nobody')
    monkeypatch.setattr(Hub, 'asked', [])
    yield Hub
    server.shutdown()


def test_a_student_goes_to_the_hub_in_one_commit(student, hub, capsys):
    code, out, error = said(['publish', str(student), 'ada/nst', '--private'], capsys)
    assert code == 0 and 'sent: http://127.0.0.1' in out, error
    made = next(json.loads(body) for path, body in hub.asked if path == '/api/repos/create')
    assert (made['name'], made['organization']) == ('nst', 'ada')
    assert made.get('private') is True or made.get('visibility') == 'private'
    commits = [body for path, body in hub.asked if path == '/api/models/ada/nst/commit/main']
    lines = [json.loads(line) for line in commits[0].decode().splitlines()]
    sent = {line['value']['path'] for line in lines if line['key'] == 'file'}
    assert len(commits) == 1 and sent == {'README.md', 'config.json', 'model.safetensors', 'tokenizer.json'}
    import base64

    card = next(x['value']['content'] for x in lines if x['value'].get('path') == 'README.md')
    assert "from_pretrained('ada/nst')" in base64.b64decode(card).decode()


def test_what_keeps_a_student_from_the_hub_is_a_sentence(student, hub, capsys, monkeypatch):
    words = ['publish', str(student), 'ada/nst']
    code, out, _ = said([*words, '--dry-run'], capsys)
    assert code == 0 and 'model.safetensors, 7 bytes' in out and 'log.jsonl' not in out and not hub.asked
    monkeypatch.setattr(Hub, 'is_private', False)
    assert 'on the hub already, and public' in said([*words, '--private'], capsys)[2] and not hub.asked
    monkeypatch.setattr(Hub, 'refuses', 403)
    assert 'does not let you write to ada/nst (error 403)' in said(words, capsys)[2]
    assert (
        "is a whole run: name one of its students"
        in said(['publish', str(student.parent.parent), 'ada/nst'], capsys)[2]
    )
    assert 'names no owner' in said(['publish', str(student), 'nst'], capsys)[2]
    monkeypatch.delenv('HF_TOKEN')
    monkeypatch.setattr('vidlankd_nb.publishing.get_token', lambda: None)
    code, _, error = said(words, capsys)
    assert code == 2 and 'hf auth login' in error and error.count('\n') == 1


def test_a_hub_that_is_not_reached_is_a_sentence(student, capsys, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setenv('HF_TOKEN', 'hf_of_nobody')
    code, _, error = said(['publish', str(student), 'ada/nst'], capsys)
    assert code == 2 and 'The hub was not reached' in error and 'Traceback' not in error


def test_output_leaves_a_stream_as_it_was():
    from vidlankd_nb.output import Output

    stream = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    out = Output(stream)
    out.write('…')
    out.end()
    assert stream.buffer.getvalue() == b'...' and stream.errors == 'strict'
