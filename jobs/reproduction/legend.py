"""What the figures of the table are, and what they are not: the lines under it."""

LEGEND = (
    "NLL is in nats per token of codebook 0: the sum of nats over the sum of tokens, mean over seeds. PPL is its "
    "exponential. Accuracy is the share of tokens that the model held likeliest.",
    "Intervals are 95 % bootstrap intervals, with percentiles expanded for small numbers, over speakers, or over "
    "recordings where no speaker is known, for the models as trained: they say what other speakers would change, "
    "not what another seed would. Seed SD is the standard deviation of NLL over seeds.",
    "Δ is a row's NLL minus its base's, paired by speaker (recording): below 0 is better than the base. p is of a "
    "two-sided sign-flip permutation test, each test on its own, with no correction for how many there are. Lower "
    "or higher is said where the interval does not hold 0 and p is below 0.05. By seed: each seed's own Δ; a seed "
    "gives both rows the same windows in the same order.",
    "A hybrid with real mel is given information that tokens do not hold, so its NLL is no likelihood of the token "
    "sequence; nor is that of a model of mel alone. A model that reads all codebooks, or the mel of more of them "
    "than the first, scores codebook 0 given the past of the others too. Comparable as likelihoods of codebook 0 "
    "are the token-only rows, the floors, and the hybrid with the mel of codebook 0 decoded alone "
    "(hybrid-4m-codes-1).",
    "Samples are cut into windows, each scored from an empty history. A mel frame reaches back, so the first frames "
    "of a later window tell a hybrid a little of what came before it, which a token-only row does not hear; and "
    "where the mel is of decoded codes, the decoder's state runs on from the recording's start.",
    "The rows of decoded mel have the codec's trained decoder before them: its parameters, its operations and what "
    "it was trained on are in no column.",
    "Rows that read mel are trained to predict the next mel frame too, with a tenth of the token's weight, and with "
    "noise on the mel that they read; the hybrids also without mel in a tenth of the windows, so that they survive "
    "their own output. All of it costs them some hundredths of a nat; token-only rows have nothing of the kind.",
    "The centred row (hybrid-4m-centred) is a control, not a model: its mel window sees up to 704 samples of the "
    "future. That window is also twice as long as that of the other rows.",
    "Floors count the training split once, all of it, whatever the models are trained on.",
    "FLOPs/token are of training; parameters, FLOPs and tokens trained are of one seed, wall time is the mean over "
    "seeds.",
    "The paper's figures (arXiv 2412.11449: GPT-S, GPT-L, Hybrid) are of its own subsets and tokens: what can be "
    "compared is the differences, not the values. Its hybrid's PPL on LibriSpeech, 6.96, is not exp(1.93) = 6.89.",
)
