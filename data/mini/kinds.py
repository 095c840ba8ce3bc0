"""Kinds of surface of the drawn streets: the 19 classes by train id, then void."""

ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN = range(10)
SKY, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(10, 19)
STATIC, DYNAMIC, EGO, OUTSIDE = range(19, 23)  # void; each data set has its own ids for them
