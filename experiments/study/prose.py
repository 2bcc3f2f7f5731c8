"""The fixed sentences of study.md: what is measured and how to read it, never what came out."""

from experiments.study.summary import UNIFORM

KEPT = "at least the test loss"

CHOICES = """Minutes are wall clock of runs of one thread each, whatever else the machine did. Eps, epochs and learning
rate were set after trial runs that were judged on test images too: at 0.1 the largest budgets stayed at the constant
prediction, so all training uses 0.05. No kind of training was tuned for itself."""

PROMISE = """## What HR promises

The HR loss of the whole training set, with the labels as trained on, at the budgets of the run's own training (for
plain and BAT training alpha = r = 0: the mean), and the mean loss of the test images with their true labels, both after
training. With flipped labels the former counts the wrong labels and the latter does not, which alone sets it higher."""

COUNTED = f"""The loss on the training set was at least the test loss after training, in numbers of runs. Networks
"that say little" have a test loss within a tenth of ln 10 = {UNIFORM:.3f}, the loss of a uniform prediction, for
which the two losses are equal whatever the budgets: there a kept promise is worth little."""

CERTIFICATE = """The certificate, 1 - exp(-r n), is the theorem's rate without its constant, exp(O(1)), which may be
large. The theorem holds for the worst case over perturbations, of which an attack shows only a part, and for at most
alpha n wrong labels. It does not say how a network that was chosen by these very training images fares unless the
constant covers that choice; training minimizes the HR loss of batches, not that of the set; and the worst case towards
which mass is moved is the largest loss of the training set, not the largest that any image could have."""

LENGTH = """## Over the length of the training

In how many runs the loss on the training set was at least the test loss. These are epochs of the same runs, whose
learning rate falls at half and at three quarters of the training."""

OVERFITTING = """## Robust overfitting

Robust test accuracy over the training: its best measured value, its final one, and the gap between them. The best of
several noisy measurements lies above the final one even where nothing overfits; the last column has the standard error
of one accuracy on these test images."""
