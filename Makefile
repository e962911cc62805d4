# make setup   make .venv and install the packages
# make demo    set up, then train on a small synthetic data set, evaluate, draw, and draw real videos with the shipped
#              weights: about 10 minutes on 2 CPU cores
# make test    set up, then run all tests: about 13 minutes on 2 CPU cores
# make study   what each idea is worth: trains and tests every row of docs/study.md that has no result yet, for a night or
#              longer on 2 CPU cores; goes on where it was stopped
# make weights VIDEOS=DIR    weights of the kind that comes with the project, by one command (docs/model_card.md)
# make lint    style
# make release-check    all that a release must pass, or some of it: make release-check STEPS="links files"
# make clean   remove what demo and tests leave (not .venv)

PYTHON ?= python3
RUN := .venv/bin/python
INSTALLED := .venv/installed
EXTRAS := .venv/installed-export

SAMPLES := IR_DRONE_142 IR_AIRPLANE_045 IR_HELICOPTER_045 IR_BIRD_053

.PHONY: demo test lint clean setup study weights release-check

setup: $(INSTALLED)

$(INSTALLED): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: Python 3.10 or later is needed; pass one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "installing into .venv: PyTorch alone is some hundred MB, on Linux with CUDA's libraries several GB"
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: $(INSTALLED)
	rm -rf demo
	$(RUN) utils_coco/make_synthetic_dataset.py --output demo/synthetic --preset hard --sequences 96 8 --frames 16 \
		--image-size 128 128 --scr 4 8 --target-size 4 6 --speed 1.25 2.5 --targets 2 3 --distractors 2 4
	$(RUN) train_DAUB.py --data-root demo/synthetic --run-dir demo/run --preset released --width 0.25 \
		--input-size 128 128 --crop 64 --flip --init kaiming --optimizer adam --lr 8e-3 --batch-size 8 --frame-interval 2 \
		--epochs 9 --epoch-share 0.4 --val-interval 3 --best-by mAP50 --save-interval 0
	$(RUN) -m utils.recalibrate --weights demo/run/best.pth --data-root demo/synthetic --output demo/run/recalibrated.pth
	$(RUN) vid_map_coco.py --weights demo/run/recalibrated.pth --data-root demo/synthetic --output demo/evaluation
	$(RUN) vid_predict.py --weights demo/run/recalibrated.pth --source demo/synthetic/images/test/data97 --save both \
		--annotations demo/synthetic/annotations/instances_test2017.json --output demo/predictions
	@if [ -f model_data/sstnet_infrared.pth ]; then for video in $(SAMPLES); do \
		$(RUN) vid_predict.py --source tests/data/drone_ir/$$video.mp4 --annotations tests/data/drone_ir/boxes.txt \
			--max-frames 24 --output demo/samples/$$video || exit 1; done; fi
	@echo
	@echo "numbers:  demo/evaluation/metrics.json, demo/run/metrics.csv"
	@echo "pictures: demo/predictions/detections.mp4, demo/predictions/frames/, demo/evaluation/report.html," \
		"demo/run/curves.png"
	@if [ -d demo/samples ]; then echo "the shipped weights on real videos: demo/samples/*/detections.mp4"; fi

study: $(INSTALLED)
	$(RUN) -m benchmarks.study --suite hard
	$(RUN) -m benchmarks.study --suite hard --recalibrated
	@if [ -f datasets/DAUB/annotations/instances_test2017.json ]; then \
		cp docs/study.md runs/study/DAUB.md && \
		$(RUN) -m benchmarks.study --suite daub --results runs/study/results --page runs/study/DAUB.md && \
		$(RUN) -m benchmarks.study --suite daub --results runs/study/results --page runs/study/DAUB.md --recalibrated; \
		else echo "datasets/DAUB is not there: its rows are left out"; fi

weights: $(INSTALLED)
	$(RUN) -m benchmarks.infrared_weights --videos $(or $(VIDEOS),$(error pass VIDEOS=DIR, with the videos and boxes.json)) \
		$(if $(START),--start $(START))

test: $(INSTALLED)
	$(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: $(INSTALLED)
	$(RUN) -m ruff check .

$(EXTRAS): $(INSTALLED) requirements-export.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-export.txt
	@touch $@

release-check: $(EXTRAS)
	$(RUN) -m tests.release_check $(if $(STEPS),--steps $(STEPS))

clean:
	rm -rf demo .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
