"""The verbs of the command line."""

# Verb: its module in whisper_gpt, and its summary in `--help`. Imported only when it runs, as torch and Ray are slow.
VERBS = {
    "download": ("jobs.download", "Download parts of LibriSpeech or MAESTRO, check and unpack them."),
    "plan": ("jobs.plan", "Scan a corpus, write its plan, and estimate how long preprocessing takes."),
    "preprocess": ("jobs.preprocess", "Turn audio into shards of mel frames and codec tokens, with manifests."),
    "inspect": ("jobs.inspect", "Summarise a dataset: totals, levels, code usage, failures; as text, JSON or HTML."),
    "explore": ("jobs.explore", "Look at datasets and listen to them in a local web page; compare them; watch runs."),
    "query": ("jobs.query", "Query a dataset's manifest in SQL: a condition on samples, or any SELECT."),
    "merge": ("jobs.merge", "Join datasets of the same codec and mel, without rewriting their tars."),
    "card": ("jobs.card", "Write a dataset card, with which Hugging Face's datasets and hub read a dataset."),
    "verify": ("jobs.verify", "Check every shard and sample of a dataset against its manifest."),
    "audit": ("jobs.audit", "Test whether codec, mel or model see the future, and how far; exit code 1 if one does."),
    "train": ("jobs.train", "Train a hybrid or a token-only model on datasets."),
    "evaluate": ("jobs.evaluate", "Score trained models and n-gram baselines: NLL, perplexity, top-1 accuracy."),
    "reproduce": ("jobs.reproduce", "Train all rows of the paper's table on your data under one budget."),
    "study": (
        "jobs.study",
        "Answer an open question on your corpora: mel, vocabulary, domain, noise, scale, resampler.",
    ),
    "generate": ("jobs.generate", "Continue a recording, or start without a prompt, and write a WAV."),
    "evaluate-generation": (
        "jobs.evaluate_generation",
        "Let models continue recordings, and score the audio.",
    ),
    "listen": ("jobs.listen", "Make a blind listening test of pairs: a web page, and the key to its answers."),
    "listen score": ("jobs.listening.score", "Turn the answers of a listening test into preferences with intervals."),
    "train-codec": ("jobs.train_codec", "Train an EnCodec-architecture codec on folders of audio."),
    "evaluate-codec": ("jobs.evaluate_codec", "Measure a codec's reconstructions and its codebook usage."),
    "bench": ("jobs.bench", "Time codec and mel on this machine against the packages they replace."),
    "bench loader": ("jobs.benchmarks.loader_speed", "Time our data loader against others on the same samples."),
    "bench gpu": (
        "jobs.benchmarks.gpu",
        "Time encoding, training, generating and loading on a GPU, within minutes.",
    ),
    "bench scale": (
        "jobs.benchmarks.scale",
        "Time planning, resuming, opening and querying of up to ten million samples.",
    ),
    "bench train": ("jobs.benchmarks.train_speed", "Time training steps against a plain token-only loop."),
    "bench generate": ("jobs.benchmarks.generate_speed", "Time generation frame by frame against a plain loop."),
    "bench preprocess": ("jobs.benchmarks.preprocess_overhead", "Time preprocess against bare decoding and encoding."),
    "completion": ("jobs.completion", "Print a script that lets a shell complete verbs and options."),
    "demo": ("jobs.demo", "Run the whole pipeline on synthetic audio, in a few minutes."),
}
