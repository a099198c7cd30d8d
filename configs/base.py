"""The settings that M1, M2 and M3 share. This is not a config to run: use m1, m2 or m3.

Recipes:
  recommended: Adam with warm-up and cosine decay, class-balanced loss, and augmentation that varies how an image was
    acquired, so that the model learns from the lungs.
  28px: the same for images of 28 pixels, as in MedMNIST: more epochs, larger batches, no equalization, shading,
    sharpness or noise.
  notebook: that of the Keras notebook that the network comes from: RMSprop, geometric augmentation, and a learning rate
    that is reduced when the val accuracy stops rising.
  paper: that of the paper, literally (Huynh et al.): Adam at a constant 1e-6, 100 epochs, binary cross-entropy, no
    augmentation, no class weights. The paper states neither batch size nor dropout rates: see README.md.
"""

from ml_collections import ConfigDict

from pneumojax.runtime.errors import unknown


def recommended() -> ConfigDict:
    """Return the fields of every config. The comment beside a field is its text in `--help-config`."""
    return ConfigDict(
        {
            "seed": 0,  # random seed of initial weights, order of images, augmentation and dropout
            "deterministic": False,  # same bits in each run on GPUs too, but slower; no effect on CPUs and TPUs
            "epochs": 20,  # passes over the train split
            "batch_size": 16,  # images per training step, over all devices of all processes
            "init_from": "",  # model to start from: a shipped one's name, an exported folder or a run; empty: none
            "freeze": "",  # layers whose parameters stay as they are, such as conv_1,batch_norm_1; empty: none
            "site": "",  # site file that --mode=calibrate wrote or will write: its name, or a path; empty: as trained
            "model": {
                "name": "m1",  # network
                "blocks": "",  # filters:dropout of each block of your own network, as 32:0,64:0.1; empty: the named one
                "image_size": 150,  # pixels per side; images are resized to this square
                "equalize": True,  # equalize each image's histogram, so that exposure and windowing do not matter
                "dtype": "float32",  # number type to compute with; parameters are always float32
                "fused": "auto",  # compute each block in fewer passes over memory; auto: where that is faster
                "batch_norm_momentum": 0.95,  # momentum of BatchNorm's running averages; short runs need less than 0.99
            },
            "optimizer": {
                "name": "adam",  # optimizer
                "learning_rate": 1e-3,  # the highest learning rate of the schedule
                "schedule": "cosine",  # cosine: falls to zero at the last step; plateau: falls when val accuracy stalls
                "warmup_epochs": 1.0,  # epochs during which the learning rate rises linearly
            },
            "loss": {
                "class_weights": "balanced",  # balanced: classes weigh the same; balanced_sites: those of each site
                "label_smoothing": 0.1,  # share of each label that is spread over both classes
            },
            "augment": {
                "rotation": 10.0,  # largest rotation either way, in degrees
                "zoom": 0.12,  # largest zoom in or out, as a share of the size
                "stretch": 0.1,  # largest stretch of each axis, independently, as a share of the size
                "shift": 0.08,  # largest shift along each axis, as a share of the side
                "flip": 0.0,  # share of images that are mirrored left to right
                "contrast": 0.3,  # largest change of contrast about the image's mean, as a share
                "brightness": 0.1,  # largest change of brightness, on the scale from 0 (black) to 1 (white)
                "gamma": 0.3,  # largest change of the exponent of intensities, as a share
                "shading": 0.5,  # largest standard deviation of the logarithm of a smooth factor of intensities
                "sharpness": 0.5,  # largest share of fine detail that is removed or added
                "noise": 0.03,  # largest standard deviation of added noise, on the scale from 0 to 1
            },
            "data": {
                "source": "phantom",  # folder, .npz file, tfds:NAME, phantom, or sites NAME=PLACE,...; --data sets it
                "label_rule": "abnormal",  # rule from a table's findings to labels; abnormal: 1 without "No Finding"
                "views": "all",  # which views to use, where a table of findings names them
                "labels": "",  # CSV with the labels of a folder of DICOM or other files; empty: find it in the folder
                "patient_pattern": "",  # pattern whose first group in an image's id is its patient; empty: known names
                "columns": "view,age,sex,read_by",  # columns of CSVs by which evaluations are divided into groups
                "trust": "",  # weights of labels by who gave them, such as text=0.3,box=1; others weigh 1
                "trust_column": "read_by",  # column of a CSV whose values data.trust names
                "subset": "all",  # how many images of the train split to use, drawn by split_seed
                "on_error": "fail",  # unreadable images before training; fail: stop; skip: leave them out
                "allow_leakage": False,  # train even if a patient or picture is in several of the given splits
                "split_seed": 0,  # random seed for carving val and test, and for drawing a subset
                "folds": 0,  # cross-validation: number of folds, which divide train by patient; 0: none
                "fold": 0,  # cross-validation: the fold that is held out, counted from 0
                "leave_out": "",  # hold out training images whose id contains a match of this pattern; empty: none
                "leave_out_site": "",  # hold out all images of this site, of several; empty: none
                "val_fraction": 0.1,  # share of train that becomes val, if there is no val split or it is too small
                "test_fraction": 0.0,  # share of train that becomes test, if there is no test split; 0: none
                "cache_dir": "",  # folder for prepared images and compiled programs; empty: the user's cache folder
                "resident": "auto",  # hold the train split as one array on each device; auto: if it fits
                "workers": 0,  # processes that read images; 0: one per core, or threads for fewer than 1,000 images
                "beam_runner": "",  # Apache Beam runner that prepares images on many machines; empty: this machine
                "beam_options": "",  # flags of the Beam runner, such as "--project=P --region=R"
            },
            "checkpoint": {
                "steps": 0,  # also save after this many steps within an epoch; 0: only after each epoch
                "minutes": 10.0,  # also save when this many minutes have passed since the last save; 0: never
            },
            "evaluation": {
                "batch_size": 64,  # images per evaluation step, over all devices
                "prevalence": 0.0,  # share of pneumonia where the model is used, to adapt probabilities; 0: as in val
                "operating_points": "auto",  # val; worst: by its worst site and corruption; auto: worst if it has sites
                "corruptions": False,  # also evaluate the main split (test, held out or val) under corruptions
            },
            "explanation": {
                "methods": "grad-cam,grad-cam++,integrated-gradients,smooth-grad,occlusion",  # methods to explain with
                "count": 16,  # number of images to explain
                "checks": False,  # also measure how faithful the methods are, on `count` images
                "layer": "",  # layer for Grad-CAM and Grad-CAM++; empty: the last convolution
                "steps": 100,  # integrated gradients: steps from the baseline to the image
                "samples": 32,  # SmoothGrad: noisy copies of the image
                "noise": 0.1,  # SmoothGrad: standard deviation of the noise, on the scale from 0 to 1
                "baseline": "blurred",  # image that integrated gradients start from and occlusion covers with
                "square": 0.2,  # occlusion: side of the covered square, as a share of the image's side
                "square_step": 0.065,  # occlusion: distance from one square to the next, as a share of the side
            },
            "prediction": {
                "output": "",  # file to write; -: standard output; empty: predictions/<name>.csv in the workdir
                "abstain": False,  # give no number for images that have flags
                "shard": "",  # part of the images to predict, such as 0/4 for the first of 4; empty: one per process
            },
            "export": {
                "formats": "safetensors,onnx,stablehlo",  # formats to write; html: a page that computes in a browser
                "output": "",  # folder to write; empty: export/ in the workdir
                "about": "",  # TOML or JSON file with what the model card cannot know, such as licenses; empty: none
            },
            "pacs": {
                "dicomweb": "",  # URL of the PACS's DICOMweb service, to fetch films from and to store results in
                "study": "",  # fetch the films of this study, by its Study Instance UID
                "dates": "",  # fetch the films of all studies of a day or of several, such as 20260131-20260202
                "worklist": "",  # fetch the films of the studies in this file: a Study Instance UID on each line
                "listen": 0,  # TCP port on which films are received by C-STORE; 0: none
                "address": "127.0.0.1",  # network address to listen on; 0.0.0.0: all of this machine
                "ae_title": "PNEUMOJAX",  # this side's application entity title
                "peers": "",  # application entity titles that may connect, with commas between them
                "hosts": "",  # addresses that may connect, with commas between them; empty: all
                "send": "",  # where results go by C-STORE, as AE@HOST:PORT; empty: to pacs.dicomweb
                "queue": "",  # folder of this user alone for films and results on their way: it identifies patients
                "credentials": "",  # TOML file with user and password, or with token; empty: the environment
                "ca_bundle": "",  # PEM file of authorities that sign the PACS's certificate; empty: well-known ones
                "client_certificate": "",  # PEM file with this side's certificate and key; empty: none
                "timeout": 30.0,  # seconds that the PACS or a peer may be silent
                "retry_seconds": 1.0,  # wait after the first fault; it doubles up to 60 seconds
                "associations": 4,  # peers that may be connected at once
                "associations_per_minute": 600,  # connections that one address may open in a minute
                "pdu_kilobytes": 64,  # longest protocol data unit that a peer may send, in units of 1,024 bytes
                "film_megabytes": 100,  # largest film, in units of 1,000,000 bytes
            },
            "serve": {
                "host": "127.0.0.1",  # address to listen on; others than this lets other machines send films
                "port": 8150,  # port to listen on; 0: a free one
                "queue": 64,  # films that may wait for an answer; more are refused
                "films": 16,  # films in one request
                "megabytes": 64,  # size of one request, in MB
                "seconds": 30.0,  # time for one request, with its upload, in seconds
            },
            "experiment": {
                "models": "",  # configs to train, such as "m1,m2,m3"; empty: that of --config, or all shipped ones
                "recipes": "recommended,notebook,paper",  # recipes, also with changed fields, such as paper+epochs=20
                "folds": "",  # folds to hold out in turn, such as "0,1,2"; empty: all of data.folds
                "seeds": "0",  # random seeds to train with
                "leave_one_site_out": False,  # train without each of several sites in turn, and evaluate on it
                "dry_run": False,  # only list the runs, with an estimate of their time
                "corruptions": True,  # also evaluate each run under artificial corruptions of its images
            },
            "benchmark": {  # values after the first of a list are measured with the first values of the other lists
                "models": "",  # networks to measure; empty: that of --config, or all if there is no --config
                "modes": "train,train-augmented,infer,feed,feed-train,resident-train",  # what to measure
                "batch_sizes": "32",  # images per step
                "image_sizes": "150",  # pixels per side
                "precisions": "float32",  # number types to compute with
                "devices": "1",  # numbers of devices; a CPU simulates them
                "peers": "",  # implementations to compare with; pneumojax-xla is pneumojax without its CPU kernels
                "rounds": 5,  # how often each of the compared processes has its turn
                "seconds": 3.0,  # length of each measurement, in seconds; at least three steps are timed
            },
        }
    )


def paper() -> ConfigDict:
    """Return the paper's recipe."""
    config = recommended()
    config.epochs = 100
    config.batch_size = 32
    config.model.update({"equalize": False, "batch_norm_momentum": 0.99})
    config.optimizer.update({"learning_rate": 1e-6, "schedule": "constant", "warmup_epochs": 0.0})
    config.loss.update({"class_weights": "none", "label_smoothing": 0.0})
    config.augment = dict.fromkeys(config.augment, 0.0)
    return config


def notebook() -> ConfigDict:
    """Return the recipe of the Keras notebook that the network comes from."""
    config = paper()
    config.epochs = 12
    config.optimizer.update({"name": "rmsprop", "learning_rate": 1e-3, "schedule": "plateau"})
    config.augment.update({"rotation": 30.0, "stretch": 0.2, "shift": 0.1, "flip": 0.5})
    return config


def pixels28() -> ConfigDict:
    """Return the recipe for images of 28 pixels."""
    config = recommended()
    config.model.update({"equalize": False, "image_size": 28})
    config.epochs = 40
    config.batch_size = 64
    config.augment.update({"shading": 0.0, "sharpness": 0.0, "noise": 0.0})
    return config


RECIPES = {"recommended": recommended, "28px": pixels28, "notebook": notebook, "paper": paper}


def get_config(recipe: str) -> ConfigDict:
    """Return the settings that the models share under `recipe`.

    Raises:
      UserError: there is no such recipe.
    """
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    config = RECIPES[recipe]()
    config.recipe = recipe
    return config
