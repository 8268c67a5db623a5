"Make the sample data again, from nothing."

import shutil
from pathlib import Path

from vidlankd_nb.filming import make_samples

folder = Path(__file__).parents[1] / 'data_samples'
shutil.rmtree(folder / 'toyworld', ignore_errors=True)
print(make_samples(folder))
