"""What M1, M2 and M3 share. Not a config to run: use m1, m2 or m3.

Recipes:
  recommended: Adam from a warm-up along a cosine, class-balanced loss, augmentation against what tells of the
    acquisition and not of the lungs.
  28px: the same for images of 28 pixels, as MedMNIST has them: longer, in larger batches, without noise or sharpness.
  notebook: that of the Keras notebook which the network comes from: RMSprop, geometric augmentation and a learning
    rate that falls when val accuracy stays.
  paper: the paper's, literally (Huynh et al.): Adam at a constant 1e-6, 100 epochs, binary cross-entropy, no
    augmentation, no weighting. Batch 32 and the dropout rates are not printed there; see README.md.
"""

from ml_collections import ConfigDict

from pneumojax.errors import unknown


def recommended() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,  # of initial weights, order, augmentation and dropout
            "deterministic": False,  # equal bits on GPUs too, at some cost; CPUs and TPUs give them anyhow
            "epochs": 20,
            "batch_size": 16,  # of the whole job, over all devices
            "model": {
                "name": "m1",
                "image_size": 150,  # pixels; images are squashed to this square
                "dtype": "float32",  # of what is computed; or "bfloat16", where parameters stay float32
                "batch_norm_momentum": 0.95,  # 0.99 would outlast a short run on few images
            },
            "optimizer": {
                "name": "adam",  # or "rmsprop"
                "learning_rate": 1e-3,  # the highest
                "schedule": "cosine",  # to zero at the last step; "constant"; "plateau": lower when val accuracy stays
                "warmup_epochs": 1.0,
            },
            "loss": {
                "class_weights": "balanced",  # each class weighs the same in sum; or "none"
                "label_smoothing": 0.1,  # share of the label that is spread over both classes
            },
            "augment": {
                "rotation": 10.0,  # degrees, at most, either way
                "zoom": 0.12,  # share, at most, in or out
                "stretch": 0.1,  # share, at most, of each axis on its own
                "shift": 0.08,  # share of the side, at most, each way
                "flip": 0.0,  # share of images that are mirrored
                "contrast": 0.3,  # share, at most, more or less, about the image's mean
                "brightness": 0.1,  # of the range [0, 1], at most, up or down
                "gamma": 0.3,  # share, at most, of the intensities' exponent
                "sharpness": 0.5,  # share, at most, of fine detail that is taken away or added
                "noise": 0.03,  # standard deviation, at most, of the range [0, 1]
            },
            "data": {
                "source": "phantom",  # see --data
                "label_rule": "abnormal",  # of CheXpert; or pneumonia-ones, pneumonia-zeros, pneumonia-ignore
                "views": "all",  # of CheXpert; or "frontal"
                "labels": "",  # the label CSV of a folder of DICOM or other files; empty: the one that is found there
                "subset": "all",  # of train; "paper", or NORMAL,PNEUMONIA as numbers of images, drawn by split_seed
                "on_error": "fail",  # of unreadable images in training; or "skip"
                "allow_leakage": False,  # of one patient or picture into several of the given splits
                "split_seed": 0,  # of the carving of val and test, and of drawing a subset
                "folds": 0,  # of cross-validation over train, by patient; 0: none is held out
                "fold": 0,  # the one that is held out
                "leave_out": "",  # a regular expression: images whose id it is found in are held out
                "val_fraction": 0.1,  # carved from train where no val split is given
                "test_fraction": 0.0,  # carved likewise, on request
                "cache_dir": "",  # prepared shards and compiled programs; empty: the user's cache folder
                "resident": "auto",  # train as one array on each device: "auto" where it fits; or always, never
                "workers": 0,  # processes that read images; 0: one for each core, or threads for fewer than 1,000
                "beam_runner": "",  # of Apache Beam, to prepare on many machines; empty: this one alone
                "beam_options": "",  # its flags, such as "--project=P --region=R"
            },
            "checkpoint": {  # beside one after each epoch, within it:
                "steps": 0,  # after every so many steps; 0: none
                "minutes": 10.0,  # when so long has passed since the last; 0: none
            },
            "evaluation": {
                "batch_size": 64,
                "prevalence": 0.0,  # of pneumonia where the model is used, for the probabilities; 0: val's
                "shifts": False,  # whether the foremost split is evaluated under shifts made on purpose, too
            },
            "explanation": {
                "methods": "grad-cam,grad-cam++,integrated-gradients,smooth-grad,occlusion",
                "count": 16,  # images
                "checks": False,  # whether the methods themselves are measured too, on as many images
                "layer": "",  # of Grad-CAM and Grad-CAM++; empty: the last convolution
                "steps": 100,  # of integrated gradients
                "samples": 32,  # of SmoothGrad
                "noise": 0.1,  # of SmoothGrad: standard deviation, of the range [0, 1]
                "baseline": "blurred",  # where integrated gradients begin, and what occlusion covers with; or "black"
                "square": 0.2,  # share of the side, of what occlusion covers at a time
                "square_step": 0.065,  # share of the side, from one such square to the next
            },
            "prediction": {
                "output": "",  # a file .csv or .jsonl; empty: predictions/<name>.csv in the workdir
                "shard": "",  # such as 0/4, the first of four parts of the images; empty: a part for each process
            },
            "experiment": {
                "models": "",  # configs, such as "m1,m2,m3"; empty: the one of --config, or all where none is given
                "recipes": "recommended,notebook,paper",  # also such as recommended+augment.noise=0+epochs=20
                "folds": "",  # which of data.folds are held out in turn, such as "0,1,2"; empty: all
                "seeds": "0",
                "shifts": True,  # whether each run is evaluated under shifts made on purpose, too
            },
            "benchmark": {  # of each comma list, the first goes with every other field's first; the rest one at a time
                "models": "",  # empty: the config's own, or all where no --config is given
                "modes": "train,train-augmented,infer,feed,feed-train,resident-train",
                "batch_sizes": "32",
                "image_sizes": "150",  # pixels
                "precisions": "float32",  # and bfloat16
                "devices": "1",  # simulated on a CPU
                "peers": "",  # to measure beside: pneumojax-xla (without CPU kernels), keras-tensorflow, keras-jax, ...
                "rounds": 5,  # of turns that the peers take
                "seconds": 3.0,  # for each measurement; at least three steps
            },
        }
    )


def paper() -> ConfigDict:
    config = recommended()
    config.epochs = 100
    config.batch_size = 32
    config.model.batch_norm_momentum = 0.99
    config.optimizer.update({"learning_rate": 1e-6, "schedule": "constant", "warmup_epochs": 0.0})
    config.loss.update({"class_weights": "none", "label_smoothing": 0.0})
    config.augment = dict.fromkeys(config.augment, 0.0)
    return config


def notebook() -> ConfigDict:
    config = paper()
    config.epochs = 12
    config.optimizer.update({"name": "rmsprop", "learning_rate": 1e-3, "schedule": "plateau"})
    config.augment.update({"rotation": 30.0, "stretch": 0.2, "shift": 0.1, "flip": 0.5})
    return config


def pixels28() -> ConfigDict:
    config = recommended()
    config.model.image_size = 28
    config.epochs = 40
    config.batch_size = 64
    config.augment.update({"noise": 0.0, "sharpness": 0.0})
    return config


RECIPES = {"recommended": recommended, "28px": pixels28, "notebook": notebook, "paper": paper}


def get_config(recipe: str) -> ConfigDict:
    """The settings that the models share under `recipe`.

    Raises:
      UserError: there is no such recipe.
    """
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    config = RECIPES[recipe]()
    config.recipe = recipe
    return config
